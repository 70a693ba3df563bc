//! A room imports only rooms below it, and inside a room no files import each other in a circle.
//!
//! The order of the rooms is the numbered list in `ARCHITECTURE.md`, bottom first. What a file imports is read from
//! its `use` lines and from the paths in its code; a name that a module hands on counts as the file that defines it.

use super::shipped_sources;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names from the root of the crate; the root has none.
type Module = Vec<String>;

/// The sources as the compiler sees them: modules, and what each name in them stands for.
struct Sources {
    /// The file of each module. Modules inside a file have that file.
    files: BTreeMap<Module, PathBuf>,
    /// What a `use` binds in a module: the name, and the path behind it.
    bound: BTreeMap<(Module, String), Vec<String>>,
    /// The paths that occur in a module.
    paths: BTreeSet<(Module, Vec<String>)>,
}

/// Files by what they import.
type Imports = BTreeSet<(PathBuf, PathBuf)>;

/// What each file of `src` imports of the others. The sources come without their tests.
fn imports(sources: &[(PathBuf, String)]) -> Imports {
    let mut all = Sources { files: BTreeMap::new(), bound: BTreeMap::new(), paths: BTreeSet::new() };
    for (path, text) in sources {
        all.files.insert(module_of(path), path.clone());
        let tokens = tokens(text);
        all.read(path, &tokens);
    }
    let edges = all.paths.iter().map(|(module, path)| {
        let target = all.resolve(module, path, 0);
        (
            all.files[module].clone(),
            target.map_or_else(|| all.files[module].clone(), |to| all.files[&to].clone()),
        )
    });
    edges.filter(|(from, to)| from != to).collect()
}

fn module_of(path: &Path) -> Module {
    let below = path.strip_prefix("src").expect("a file of src").with_extension("");
    let mut module: Module = below.iter().map(|name| name.to_str().expect("text").to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

impl Sources {
    /// Notes what a file binds and names.
    fn read(&mut self, path: &Path, tokens: &[&str]) {
        let mut module = module_of(path);
        // How deep in braces the modules inside this file began.
        let mut inside: Vec<usize> = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while at < tokens.len() {
            match tokens[at..] {
                ["mod", name, "{", ..] => {
                    module.push(name.to_owned());
                    self.files.insert(module.clone(), path.to_owned());
                    inside.push(depth);
                    depth += 1;
                    at += 3;
                }
                ["use", ..] => {
                    let mut found = Vec::new();
                    at = tree(tokens, at + 1, &[], &mut found);
                    for (name, path) in found {
                        self.bound.insert((module.clone(), name), path.clone());
                        self.paths.insert((module.clone(), path));
                    }
                }
                [first, "::", ..] if is_name(first) && !goes_on(tokens, at) => {
                    let mut path = vec![first.to_owned()];
                    while let ["::", name, ..] = tokens[at + 1..]
                        && is_name(name)
                    {
                        path.push(name.to_owned());
                        at += 2;
                    }
                    self.paths.insert((module.clone(), path));
                    at += 1;
                }
                [token, ..] => {
                    depth += usize::from(token == "{");
                    depth -= usize::from(token == "}");
                    if token == "}" && inside.last() == Some(&depth) {
                        inside.pop();
                        module.pop();
                    }
                    at += 1;
                }
                [] => unreachable!("it ends before"),
            }
        }
    }

    /// The module that a path leads to, or whose item it leads to. `None` is outside of the crate.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        const MOST_HANDED_ON: usize = 8;
        if depth > MOST_HANDED_ON {
            return None;
        }
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => Module::new(),
            "self" => from.clone(),
            "super" => parent(from),
            name if self.files.contains_key(&child(from, name)) => child(from, name),
            name => {
                let bound = self.bound.get(&(from.clone(), name.to_owned()))?;
                // What `use a::a` binds is no further path from here.
                if bound == path {
                    return None;
                }
                return self.resolve(from, &[bound, rest].concat(), depth + 1);
            }
        };
        while let Some((name, further)) = rest.split_first() {
            if name == "super" {
                module = parent(&module);
            } else if self.files.contains_key(&child(&module, name)) {
                module = child(&module, name);
            } else if let Some(bound) = self.bound.get(&(module.clone(), name.clone())) {
                return self.resolve(&module, &[bound, further].concat(), depth + 1);
            } else {
                break;
            }
            rest = further;
        }
        Some(module)
    }
}

fn child(of: &Module, name: &str) -> Module {
    [of.as_slice(), &[name.to_owned()]].concat()
}

fn parent(of: &Module) -> Module {
    of[..of.len().saturating_sub(1)].to_vec()
}

/// Whether the name at this place goes on with what stands before it, or says only who may see an item.
fn goes_on(tokens: &[&str], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map(|at| tokens[at]);
    matches!(before(1), Some("::" | ".")) || (before(1) == Some("in") && before(3) == Some("pub"))
}

/// Reads one tree of a `use`, and gives where it ends.
fn tree(tokens: &[&str], mut at: usize, prefix: &[String], found: &mut Vec<(String, Vec<String>)>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[at] {
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(tokens[at] == ",");
                }
                return at + 1;
            }
            "::" => {}
            "self" if !path.is_empty() => {}
            // What is behind it can be anything of that module.
            "*" => {
                found.push(("*".to_owned(), path));
                return at + 1;
            }
            name => path.push(name.to_owned()),
        }
        at += 1;
        if tokens[at] == "as" {
            found.push((tokens[at + 1].to_owned(), path));
            return at + 2;
        }
        if matches!(tokens[at], "," | "}" | ";") {
            found.push((path.last().expect("a path has names").clone(), path));
            return at;
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single signs, without comments and literals.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if let Some(length) = passed_over(rest) {
            rest = &rest[length..];
            continue;
        } else if is_name(rest) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        found.push(&rest[..length]);
        rest = &rest[length..];
    }
    found
}

/// How long the comment, literal, lifetime or space is that a text begins with.
fn passed_over(text: &str) -> Option<usize> {
    let until =
        |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    let hashes = text.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
    if text.starts_with("//") {
        Some(until(0, "\n"))
    } else if text.starts_with("/*") {
        Some(until(2, "*/"))
    } else if let Some(hashes) = hashes
        && text[1 + hashes..].starts_with('"')
    {
        Some(until(2 + hashes, &format!("\"{}", "#".repeat(hashes))))
    } else if let Some(quoted) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        Some(end.map_or(text.len(), |end| end + 2))
    } else if text.starts_with("'\\") {
        Some(until(3, "'"))
    } else if let Some(quoted) = text.strip_prefix('\'') {
        // A character, or the first sign of a lifetime.
        let length = quoted.chars().next().map_or(0, char::len_utf8);
        Some(if quoted[length..].starts_with('\'') { length + 2 } else { 1 })
    } else {
        text.starts_with(char::is_whitespace).then(|| text.len() - text.trim_start().len())
    }
}

/// The rooms in their order, bottom first: each has one path or a few.
struct Order(Vec<Vec<String>>);

impl Order {
    /// Reads the numbered list in the section of the house; what stands before an item's colon are its paths.
    fn read(architecture: &str) -> Self {
        let house = architecture.split("\n## The house\n").nth(1).expect("there is a section of the house");
        let house = house.split("\n## ").next().expect("a first part");
        let items = house.lines().filter(|line| {
            line.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
        });
        let paths = |item: &str| {
            let head = item.split_once(": ").expect("an item says what its room is for").0.to_owned();
            head.split('`').filter(|part| part.starts_with("src/")).map(str::to_owned).collect()
        };
        Self(items.map(paths).collect())
    }

    /// The room of a file, by the longest path that fits. `src/bus/` fits `src/bus.rs` too.
    fn room(&self, file: &Path) -> Option<usize> {
        let file = file.to_str().expect("text");
        let fits = |path: &str| {
            let is_inside = path.strip_suffix('/').is_some_and(|module| file == format!("{module}.rs"));
            file == path || is_inside || (path.ends_with('/') && file.starts_with(path))
        };
        let rooms = self.0.iter().enumerate();
        let fitting = rooms
            .flat_map(|(n, paths)| paths.iter().filter(|path| fits(path)).map(move |path| (path.len(), n)));
        fitting.max().map(|(_, room)| room)
    }
}

/// Imports of a room that is above, or of a file that has no room.
fn upward(imports: &Imports, order: &Order) -> Vec<String> {
    let is_upward = |(from, to): &&(PathBuf, PathBuf)| match (order.room(from), order.room(to)) {
        (Some(from), Some(to)) => to > from,
        _ => true,
    };
    imports.iter().filter(is_upward).map(|import| Shown(import).to_string()).collect()
}

struct Shown<'a>(&'a (PathBuf, PathBuf));

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} imports {}", self.0.0.display(), self.0.1.display())
    }
}

/// Whether a file is the face of a folder: it names the files behind it, and they name what it defines.
fn is_face(file: &Path, imports: &Imports) -> bool {
    let folder = file.with_extension("");
    file.ends_with("mod.rs")
        || imports.iter().any(|(from, to)| from.starts_with(&folder) || to.starts_with(&folder))
}

/// Files of one room that import each other, other than by the faces of their folders: one list for each circle.
fn circles(imports: &Imports, order: &Order) -> Vec<Vec<PathBuf>> {
    let inside = imports.iter().filter(|(from, to)| {
        order.room(from) == order.room(to) && !is_face(from, imports) && !is_face(to, imports)
    });
    let mut reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = BTreeMap::new();
    inside.for_each(|(from, to)| _ = reached.entry(from).or_default().insert(to));
    loop {
        let further: Vec<_> = reached
            .iter()
            .flat_map(|(from, to)| {
                let next = to.iter().filter_map(|to| reached.get(to)).flatten();
                next.filter(|next| !to.contains(*next)).map(|next| (*from, *next)).collect::<Vec<_>>()
            })
            .collect();
        if further.is_empty() {
            break;
        }
        for (from, to) in further {
            reached.entry(from).or_default().insert(to);
        }
    }
    let reaches = |from: &PathBuf, to: &PathBuf| reached.get(from).is_some_and(|all| all.contains(to));
    let mut circles: Vec<Vec<PathBuf>> = Vec::new();
    for file in reached.keys().filter(|file| reaches(file, file)) {
        if !circles.iter().flatten().any(|seen| seen == *file) {
            let circle = reached.keys().filter(|other| reaches(file, other) && reaches(other, file));
            circles.push(circle.map(|file| (*file).clone()).collect());
        }
    }
    circles
}

fn order() -> Order {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    Order::read(&fs::read_to_string(path).expect("it is there"))
}

/// What breaks the rule, each as a line.
fn broken(sources: &[(PathBuf, String)]) -> Vec<String> {
    let (imports, order) = (imports(sources), order());
    let circle = |files: Vec<PathBuf>| {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        names.join(", ")
    };
    let mut lines = upward(&imports, &order);
    lines.extend(circles(&imports, &order).into_iter().map(circle));
    lines
}

#[test]
fn a_room_imports_only_rooms_below_it_and_no_files_import_each_other() {
    assert_eq!(broken(&shipped_sources()), Vec::<String>::new());
}

#[test]
fn every_file_has_a_room() {
    let order = order();
    let without: Vec<PathBuf> = shipped_sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| order.room(path).is_none())
        .collect();
    assert_eq!(without, Vec::<PathBuf>::new());
}

/// What the rule finds with this code at the end of a file, beyond what it finds without it.
fn found_with(file: &str, code: &str) -> Vec<String> {
    static BEFORE: OnceLock<Vec<String>> = OnceLock::new();
    let mut sources = shipped_sources();
    let before = BEFORE.get_or_init(|| broken(&sources));
    let (_, text) = sources.iter_mut().find(|(path, _)| path == Path::new(file)).expect("a file of src");
    text.push_str(code);
    broken(&sources).into_iter().filter(|line| !before.contains(line)).collect()
}

#[test]
fn the_rule_of_rooms_finds_an_upward_import_however_it_is_written() {
    for code in [
        "use crate::policy::Retry;",
        "use crate::{foreign, policy::{self, Retry as Again}};",
        "pub(crate) use super::super::policy::Retry;",
        "fn f() -> crate::policy::Retry { g('\'', \"\") }",
        "use crate::Retry;",
        "use crate as keylane; fn f(retry: keylane::policy::Retry) {}",
        "mod inside { fn f(retry: super::super::super::policy::Retry) {} }",
    ] {
        let found = found_with("src/pool/lane.rs", code);
        assert!(found.contains(&"src/pool/lane.rs imports src/policy.rs".to_owned()), "{code}: {found:?}");
    }
    for code in
        ["// use crate::policy::Retry;", "const A: &str = \"crate::policy::Retry\";", "use crate::sync::Arc;"]
    {
        assert_eq!(found_with("src/pool/lane.rs", code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn a_room_inside_another_is_told_apart_from_it() {
    let found = found_with("src/broker/fetched.rs", "use super::memory::MemoryBroker;");
    assert_eq!(found, ["src/broker/fetched.rs imports src/broker/memory/mod.rs"]);
    assert_eq!(found_with("src/broker/memory/log.rs", "use crate::broker::Fetched;"), Vec::<String>::new());
}

#[test]
fn the_rule_of_rooms_finds_a_circle_of_files() {
    let found = found_with("src/broker/memory/log.rs", "use super::topic::Topic;");
    let circle = "src/broker/memory/cursor.rs, src/broker/memory/log.rs, src/broker/memory/topic.rs";
    assert_eq!(found, [circle]);
    // What is handed on by the face of the folder counts as the file behind it.
    assert_eq!(
        found_with("src/envelope/json.rs", "use super::parse_spans;"),
        ["src/envelope/json.rs, src/envelope/parse.rs"]
    );
}
