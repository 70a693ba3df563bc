//! The file: read once to give every row its key and sequence number, and once more to publish it.

use crate::ledger::Place;
use crate::options::Options;
use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;
use serde::Serializer as _;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A file of rows that was read once, from its first line to its last.
pub(crate) struct Rows {
    path: PathBuf,
    columns: StringRecord,
    key_column: usize,
    /// Every key, as an aggregate id.
    pub(crate) keys: Vec<String>,
    count: usize,
}

/// A row on its way to the bus.
pub(crate) struct Row {
    /// None: the row has no key.
    pub(crate) aggregate_id: Option<String>,
    /// The row's columns as an object of JSON.
    pub(crate) json: String,
}

impl Rows {
    /// Reads the whole file, so that what is wrong with it is known before anything starts. Gives for each row its
    /// place within its key.
    pub(crate) fn survey(options: &Options) -> Result<(Self, Vec<Option<Place>>), Error> {
        let path = options.input.clone();
        let about_input = |error: &dyn std::fmt::Display| format!("--input {}: {error}", path.display());
        let mut reader = open(&path).map_err(|error| about_input(&error))?;
        let columns = reader.headers().map_err(|error| about_input(&error))?.clone();
        let mut seen = HashSet::new();
        if let Some(twice) = columns.iter().find(|column| !seen.insert(*column)) {
            return Err(
                about_input(&format!("expected columns of different names, but two are '{twice}'")).into()
            );
        }
        let key_column = columns.iter().position(|column| column == options.key).ok_or_else(|| {
            let columns: Vec<_> = columns.iter().collect();
            let (key, path, columns) = (&options.key, path.display(), columns.join(", "));
            format!("--key {key}: expected a column of {path}, which are: {columns}")
        })?;

        let (mut keys, mut places) = (Vec::new(), Vec::new());
        // For each key its index and how many rows it has so far.
        let mut known: HashMap<String, (u32, u32)> = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| about_input(&error))?;
            let Some(id) = aggregate_id(&record[key_column]) else {
                places.push(None);
                continue;
            };
            if id.len() > 256 {
                let line = record.position().map_or(0, csv::Position::line);
                let fault = format!(
                    "line {line}: expected a key of at most 256 bytes, but '{}' is '{id}'",
                    options.key
                );
                return Err(about_input(&fault).into());
            }
            let (key, rows) = known.entry(id).or_insert_with_key(|id| {
                keys.push(id.clone());
                (keys.len() as u32 - 1, 0)
            });
            places.push(Some(Place { key: *key, sequence: *rows }));
            *rows += 1;
        }
        if places.is_empty() {
            return Err(about_input(&"expected at least one row after the header").into());
        }
        let rows = Self { path, columns, key_column, keys, count: places.len() };
        Ok((rows, places))
    }

    /// Reads the file again, row by row.
    pub(crate) fn for_each(
        &self,
        mut take: impl FnMut(usize, Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut reader = open(&self.path)?;
        let mut record = StringRecord::new();
        for number in 0..self.count {
            if !reader.read_record(&mut record)? {
                return Err(format!("{} became shorter while it was replayed", self.path.display()).into());
            }
            let mut json = Vec::with_capacity(2 * record.as_slice().len() + 16 * record.len());
            serde_json::Serializer::new(&mut json).collect_map(self.columns.iter().zip(&record))?;
            let aggregate_id = aggregate_id(&record[self.key_column]);
            take(number, Row { aggregate_id, json: String::from_utf8(json)? })?;
        }
        Ok(())
    }
}

fn open(path: &PathBuf) -> Result<csv::Reader<Box<dyn Read>>, std::io::Error> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let is_gzipped = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let file: Box<dyn Read> = if is_gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(csv::Reader::from_reader(file))
}

/// The value of the key column as an aggregate id; none if it is missing.
///
/// Ids are made of `A-Za-z0-9:_-./`. Any other byte becomes `_x` and two hexadecimal digits, and so does a `_` before
/// an `x`: different values stay different.
fn aggregate_id(value: &str) -> Option<String> {
    let value = value.trim();
    if value.is_empty() || value == "NA" {
        return None;
    }
    let mut id = String::with_capacity(value.len());
    let mut bytes = value.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let is_plain = byte.is_ascii_alphanumeric() || b":_-./".contains(&byte);
        if is_plain && !(byte == b'_' && bytes.peek() == Some(&b'x')) {
            id.push(char::from(byte));
        } else {
            write!(id, "_x{byte:02X}").expect("a String takes all");
        }
    }
    Some(id)
}
