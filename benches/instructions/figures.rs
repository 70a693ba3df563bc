//! What was recorded, and how a count compares with it.

use std::fmt::Write;

/// The text of the file, in its form.
pub(crate) struct Recorded {
    /// What it was recorded with: another compiler makes other code of the same source.
    pub(crate) compiler: String,
    /// How far a count may be from what was recorded.
    pub(crate) allowed_percent: f64,
    /// Instructions of one operation, by the name of the path.
    pub(crate) paths: Vec<(String, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    AsRecorded,
    Slower,
    Faster,
}

/// By how many percent the count is above what was recorded.
pub(crate) fn change_percent(recorded: f64, counted: f64) -> f64 {
    (counted / recorded - 1.0) * 100.0
}

impl Recorded {
    /// Reads `compiler TEXT`, `allowed_percent NUMBER` and `PATH NUMBER` from lines; `#` begins a comment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut recorded = Self { compiler: String::new(), allowed_percent: f64::NAN, paths: Vec::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').ok_or_else(|| format!("`{line}` has no value"))?;
            let value = value.trim();
            let number = || value.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
            let number = || number().ok_or_else(|| format!("`{line}`: a number above 0 was expected"));
            match name {
                "compiler" => value.clone_into(&mut recorded.compiler),
                "allowed_percent" => recorded.allowed_percent = number()?,
                path => recorded.paths.push((path.to_owned(), number()?)),
            }
        }
        if recorded.allowed_percent.is_nan() {
            return Err("`allowed_percent` is missing".to_owned());
        }
        Ok(recorded)
    }

    pub(crate) fn of(&self, path: &str) -> Option<f64> {
        self.paths.iter().find(|(name, _)| name == path).map(|(_, count)| *count)
    }

    pub(crate) fn judge(&self, recorded: f64, counted: f64) -> Verdict {
        let change = change_percent(recorded, counted);
        if change > self.allowed_percent {
            Verdict::Slower
        } else if change < -self.allowed_percent {
            Verdict::Faster
        } else {
            Verdict::AsRecorded
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::from(concat!(
            "# Instructions of one operation, by callgrind. `RECORD=1 tests/run instructions` writes this file;\n",
            "# `allowed_percent` stays as it is here. What the paths are: paths.rs.\n",
        ));
        let Self { compiler, allowed_percent, paths } = self;
        let _ = writeln!(text, "compiler {compiler}\nallowed_percent {allowed_percent}");
        for (path, count) in paths {
            let _ = writeln!(text, "{path} {count:.1}");
        }
        text
    }
}
