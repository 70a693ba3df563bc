//! The grammar of JSON (RFC 8259) over UTF-8 text, one byte after the other, with nothing allocated or copied.

use super::error::{EnvelopeError, EnvelopeErrorKind as Kind};
use std::ops::Range;

/// A position in a text that is read once, from front to back.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Where the text of a string is, without its quotes, and whether it holds escapes.
pub(super) struct StringToken {
    pub(super) span: Range<usize>,
    pub(super) escaped: bool,
    /// Every character is printable ASCII, for which nearly all text is; false may also be said of text that is.
    pub(super) is_printable_ascii: bool,
}

/// Where a number is, and whether it has neither fraction nor exponent.
pub(super) struct NumberToken {
    pub(super) span: Range<usize>,
    pub(super) is_integer: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Goes past `byte` if it is the next one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Goes past `text` if it is what comes next.
    pub(super) fn take_all(&mut self, text: &str) -> bool {
        let is_next = self.text.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if is_next { text.len() } else { 0 };
        is_next
    }

    /// An error about the byte that comes next.
    #[cold]
    pub(super) fn unexpected(&self, rule: &'static str) -> EnvelopeError {
        self.refused_at(self.at, rule)
    }

    #[cold]
    fn refused_at(&self, at: usize, rule: &'static str) -> EnvelopeError {
        let error = EnvelopeError::new(Kind::Syntax, rule, at);
        // `at` is a boundary: every byte of a longer character is part of a string, and those are not refused.
        match self.text[at..].chars().next() {
            Some(next) => error.showing(next.encode_utf8(&mut [0; 4]).as_bytes()),
            None => error,
        }
    }

    /// Goes past a string; the next byte is its opening quote.
    // Most of a record is short strings: as a call, this is a seventh of the instructions of reading one.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<StringToken, EnvelopeError> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut escaped = false;
        let mut is_printable_ascii = true;
        let mut at = start;
        loop {
            let plain = plain_from(bytes, at);
            at = plain.end;
            is_printable_ascii &= plain.is_printable_ascii;
            match bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(StringToken { span: start..at, escaped, is_printable_ascii });
                }
                Some(b'\\') => {
                    escaped = true;
                    is_printable_ascii = false;
                    at = self.escape(at)?;
                }
                Some(_) => return Err(self.refused_at(at, "must have control characters in strings escaped")),
                None => return Err(self.refused_at(at, "must have a closing quote")),
            }
        }
    }

    /// The byte behind the escape whose backslash is at `at`.
    #[inline(never)]
    fn escape(&self, at: usize) -> Result<usize, EnvelopeError> {
        let bytes = self.text.as_bytes();
        match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                let hex = bytes[at + 2..].iter().take(4).take_while(|byte| byte.is_ascii_hexdigit()).count();
                if hex < 4 {
                    return Err(self.refused_at(at + 2 + hex, "must have four hex digits after \\u"));
                }
                Ok(at + 6)
            }
            _ => Err(self.refused_at(at + 1, "must have one of \" \\ / b f n r t u after a backslash")),
        }
    }

    /// Goes past an integer of one to nine digits that a comma or a closing brace follows, which is what versions and
    /// tenants nearly always are; past nothing where something else comes.
    pub(super) fn small_integer(&mut self) -> Option<i64> {
        let rest = &self.text.as_bytes()[self.at..];
        let digits = rest.iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
        let is_usual = matches!((digits, rest.first()), (1, _) | (2..=9, Some(b'1'..=b'9')));
        if !is_usual || !matches!(rest.get(digits), Some(b',' | b'}')) {
            return None;
        }
        self.at += digits;
        Some(rest[..digits].iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    }

    /// Goes past a number; the next byte is its first.
    pub(super) fn number(&mut self) -> Result<NumberToken, EnvelopeError> {
        let start = self.at;
        let mut is_integer = true;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        } else if let Some(b'0'..=b'9') = self.peek() {
            return Err(self.unexpected("must not have a leading zero in a number"));
        }
        if self.take(b'.') {
            is_integer = false;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            is_integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(NumberToken { span: start..self.at, is_integer })
    }

    fn digits(&mut self) -> Result<(), EnvelopeError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.unexpected("must have a digit here"));
        }
        Ok(())
    }

    /// Goes past `null`, `true` or `false`, given whole.
    pub(super) fn literal(&mut self, word: &str) -> Result<(), EnvelopeError> {
        let same =
            self.text.as_bytes()[self.at..].iter().zip(word.as_bytes()).take_while(|(a, b)| a == b).count();
        self.at += same;
        if same < word.len() {
            return Err(self.unexpected("must have a JSON value here"));
        }
        Ok(())
    }

    /// Goes past one value of any type, in a loop and not by recursion, so that no depth can exhaust the stack.
    ///
    /// `outer` objects and arrays are open around the value, and at most `max_depth` may be with those in it.
    /// Strings are held to the grammar only: an escape of half a surrogate pair is part of it.
    pub(super) fn value(&mut self, outer: usize, max_depth: usize) -> Result<(), EnvelopeError> {
        let mut open = Nesting::default();
        'value: loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                Some(opening @ (b'{' | b'[')) => {
                    if outer + open.depth >= max_depth {
                        let rule = format!("must not be nested deeper than {max_depth} levels");
                        return Err(EnvelopeError::new(Kind::TooDeep, rule, self.at));
                    }
                    self.at += 1;
                    self.skip_whitespace();
                    if opening == b'{' {
                        if !self.take(b'}') {
                            open.push(true);
                            self.name()?;
                            continue 'value;
                        }
                    } else if !self.take(b']') {
                        open.push(false);
                        continue 'value;
                    }
                }
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return Err(self.unexpected("must have a JSON value here")),
            }
            while open.depth > 0 {
                self.skip_whitespace();
                if open.in_object() {
                    if self.take(b',') {
                        self.skip_whitespace();
                        self.name()?;
                        continue 'value;
                    }
                    if !self.take(b'}') {
                        return Err(self.unexpected("must have a comma or a closing brace here"));
                    }
                } else {
                    if self.take(b',') {
                        self.skip_whitespace();
                        continue 'value;
                    }
                    if !self.take(b']') {
                        return Err(self.unexpected("must have a comma or a closing bracket here"));
                    }
                }
                open.pop();
            }
            return Ok(());
        }
    }

    /// Goes past a name of an object, its colon, and the whitespace up to its value.
    pub(super) fn name(&mut self) -> Result<StringToken, EnvelopeError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("must have a name in double quotes here"));
        }
        let name = self.string()?;
        self.skip_whitespace();
        if !self.take(b':') {
            return Err(self.unexpected("must have a colon here"));
        }
        self.skip_whitespace();
        Ok(name)
    }
}

/// The objects and arrays that are open, one bit each; allocates only from the 65th on.
#[derive(Default)]
struct Nesting {
    /// The innermost up to 64, the lowest bit the innermost of all: set for an object.
    innermost: u64,
    outer: Vec<u64>,
    depth: usize,
}

impl Nesting {
    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.innermost >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }

    fn in_object(&self) -> bool {
        self.innermost & 1 == 1
    }
}

/// The index, from `at` on, of the first quote, backslash or control character, or the end.
#[inline]
pub(super) fn plain_until(bytes: &[u8], at: usize) -> usize {
    plain_from(bytes, at).end
}

/// A stretch without quotes, backslashes and control characters below a space.
struct Plain {
    end: usize,
    is_printable_ascii: bool,
}

/// The stretch from `at` on.
///
/// Eight bytes at a time: each of the three subtractions sets the high bit of the ASCII bytes that it finds, and
/// `!word` masks the bytes that are not ASCII. A borrow may also set the bit in a byte above a found one, never below,
/// and the lowest is the one that is used. The addition sets the high bit of DEL; it would carry out of 0xff alone,
/// which is not ASCII either, and whose own bit is set.
#[inline]
fn plain_from(bytes: &[u8], mut at: usize) -> Plain {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH_BITS: u64 = ONES << 7;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const SPACES: u64 = ONES * b' ' as u64;

    let mut unusual = 0;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = (word ^ QUOTES).wrapping_sub(ONES);
        let backslash = (word ^ BACKSLASHES).wrapping_sub(ONES);
        let control = word.wrapping_sub(SPACES);
        let found = (quote | backslash | control) & !word & HIGH_BITS;
        let high_or_del = (word | word.wrapping_add(ONES)) & HIGH_BITS;
        if found != 0 {
            // What stands below the lowest of the found bits belongs to the bytes before it.
            unusual |= high_or_del & (found & found.wrapping_neg()).wrapping_sub(1);
            return Plain { end: at + found.trailing_zeros() as usize / 8, is_printable_ascii: unusual == 0 };
        }
        unusual |= high_or_del;
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let ends = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < b' ';
    let length = rest.iter().position(ends).unwrap_or(rest.len());
    let is_printable_ascii =
        unusual == 0 && rest[..length].iter().all(|byte| byte.is_ascii() && *byte != 0x7f);
    Plain { end: at + length, is_printable_ascii }
}

/// Appends the text of a string whose escapes keep to the grammar.
///
/// # Errors
/// The index of the backslash of an escape that is half of a surrogate pair.
pub(super) fn unescape(raw: &str, text: &mut String) -> Result<(), usize> {
    let mut at = 0;
    while let Some(plain) = raw[at..].find('\\') {
        text.push_str(&raw[at..at + plain]);
        at += plain;
        let (character, length) = match raw.as_bytes()[at + 1] {
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => unicode_escape(&raw[at..]).ok_or(at)?,
            itself => (char::from(itself), 2),
        };
        text.push(character);
        at += length;
    }
    text.push_str(&raw[at..]);
    Ok(())
}

/// The character of the `\uXXXX` that `raw` starts with, or of the two that make a surrogate pair, and their length.
fn unicode_escape(raw: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u32::from_str_radix(raw.get(at..at + 4)?, 16).ok();
    let first = unit(2)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    let has_second = raw.get(6..8) == Some("\\u");
    let second = if has_second { unit(8)? } else { return None };
    if first >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    Some((char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?, 12))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether the text is one JSON value and nothing else.
    fn is_json(text: &str) -> bool {
        let mut scan = Scanner::new(text);
        scan.skip_whitespace();
        let valid = scan.value(0, usize::MAX).is_ok();
        scan.skip_whitespace();
        valid && scan.at() == text.len()
    }

    fn serde_says(text: &str) -> bool {
        serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    }

    /// Texts of the characters that the grammar is about: most are not JSON, many nearly are.
    fn near_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "00", "d800", "a", "\"a\"", "\"a\":", "1", "-",
            "0", ".", "e", "E", "+", " ", "\n", "null", "true", "false", "nul", "\u{1}", "ä", "\u{feff}",
            "1.5e-3", "[]", "{}",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// A valid document with whitespace in all places.
    fn json() -> impl Strategy<Value = String> {
        let string = prop_oneof![any::<String>(), "\\PC{0,20}"]
            .prop_map(|text| serde_json::to_string(&text).expect("a string is JSON"));
        let leaf = prop_oneof![
            string.clone(),
            any::<f64>().prop_filter("JSON has no NaN", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
            any::<i64>().prop_map(|n| n.to_string()),
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            Just("\"\\ud800\\n\\/\"".to_owned()),
        ];
        leaf.prop_recursive(6, 60, 6, move |inner| {
            let space = "[ \n\r\t]{0,2}";
            prop_oneof![
                (prop::collection::vec(inner.clone(), 0..6), space).prop_map(|(items, space)| format!(
                    "[{space}{}{space}]",
                    items.join(&format!("{space},"))
                )),
                (prop::collection::vec((string.clone(), inner), 0..6), space).prop_map(|(members, space)| {
                    let members: Vec<_> =
                        members.iter().map(|(name, value)| format!("{name}{space}:{space}{value}")).collect();
                    format!("{{{space}{}{space}}}", members.join(&format!(",{space}")))
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_grammar_is_the_one_of_serde_json_on_nearly_valid_text(text in near_json()) {
            prop_assert_eq!(is_json(&text), serde_says(&text));
        }

        #[test]
        fn scanning_by_words_finds_what_scanning_by_bytes_finds(
            bytes in prop::collection::vec(prop_oneof![
                6 => any::<u8>(),
                1 => Just(b'"'),
                1 => Just(b'\\'),
                1 => 0_u8..0x21,
                20 => Just(b'x'),
            ], 0..60)
        ) {
            for at in 0..=bytes.len() {
                let expected = bytes[at..].iter().position(|byte| matches!(byte, 0..=31 | b'"' | b'\\'));
                let plain = plain_from(&bytes, at);
                prop_assert_eq!(plain.end, expected.map_or(bytes.len(), |found| at + found));
                let is_printable = |byte: &u8| (b' '..=b'~').contains(byte);
                prop_assert_eq!(plain.is_printable_ascii, bytes[at..plain.end].iter().all(is_printable));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_document_is_accepted_and_no_part_of_a_nested_one(text in json(), cut in any::<prop::sample::Index>()) {
            prop_assert!(serde_says(&text), "the generator makes JSON: {}", text);
            prop_assert!(is_json(&text), "{}", text);
            let cut = text.char_indices().map(|(at, _)| at).nth(cut.index(text.chars().count())).unwrap_or(0);
            prop_assert_eq!(is_json(&text[..cut]), serde_says(&text[..cut]));
        }

        #[test]
        fn strings_are_unescaped_as_serde_json_does(text in any::<String>(), ascii in any::<bool>()) {
            let mut raw = serde_json::to_string(&text).expect("a string is JSON");
            if ascii {
                let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
                raw = format!("\"{}\"", units.collect::<String>());
            }
            let mut unescaped = String::new();
            prop_assert_eq!(unescape(&raw[1..raw.len() - 1], &mut unescaped), Ok(()));
            prop_assert_eq!(unescaped, text);
        }
    }

    #[test]
    fn every_short_escape_stands_for_its_character() {
        let mut text = String::new();
        assert_eq!(unescape(r#"\"\\\/\b\f\n\r\t\u0041"#, &mut text), Ok(()));
        assert_eq!(text, "\"\\/\u{8}\u{c}\n\r\tA");
    }

    #[test]
    fn half_a_surrogate_pair_is_found_at_its_backslash() {
        for raw in [
            r"ab\ud800",
            r"ab\udc00",
            r"ab\ud800\u0041",
            r"ab\ud800\n",
            r"ab\udc00\udc00",
            r"ab\ud800x\udc00",
        ] {
            assert_eq!(unescape(raw, &mut String::new()), Err(2), "{raw}");
        }
    }

    #[test]
    fn nesting_remembers_every_level_beyond_one_word() {
        let text: String = (0..200).map(|level| if level % 3 == 0 { "[" } else { "{\"a\":" }).collect();
        let closing: String = (0..200).rev().map(|level| if level % 3 == 0 { "]" } else { "}" }).collect();
        assert!(is_json(&format!("{text}1{closing}")));
        for wrong in 0..200 {
            let mut swapped = closing.clone().into_bytes();
            swapped[wrong] = if swapped[wrong] == b']' { b'}' } else { b']' };
            let swapped = String::from_utf8(swapped).expect("brackets are ASCII");
            assert!(!is_json(&format!("{text}1{swapped}")), "level {wrong}");
        }
    }

    #[test]
    fn the_depth_counts_what_is_open_around_the_value() {
        let depth =
            |text: &str, outer, max| Scanner::new(text).value(outer, max).map_err(|e| (e.kind(), e.offset()));
        assert_eq!(depth("[[1]]", 0, 2), Ok(()));
        assert_eq!(depth("[[1]]", 1, 2), Err((Kind::TooDeep, 1)));
        assert_eq!(depth("[[],[],{}]", 0, 2), Ok(()));
        assert_eq!(depth("1", 2, 2), Ok(()));
    }
}
