//! Tenants that a file describes: `EMBEDDED_TENANTS`, in the words of the management API.
//!
//! What comes in: the file, and the tenants that are there. What goes out: [`Described`], and records made of it: new ones complete, known
//! ones changed. What always holds: a file with a mistake anywhere leads to nothing
//! (`mistakes_of_the_file_are_named_and_nothing_is_stored`). Deliberately absent: storing.

use super::store::{TenantRecord, apply};
use crate::config::TenantDefaults;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a file says, in its order.
#[derive(Clone, Debug)]
pub struct Described {
    path: PathBuf,
    tenants: Vec<Description>,
}

/// One tenant of the file.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its name; of one without, nothing, which is a mistake that [`Described::records`] finds.
    pub external_id: String,
    /// What is said of it.
    pub attributes: Map<String, Value>,
}

/// What is wrong with the file: a sentence for the operator.
#[derive(Debug)]
pub enum DescribedError {
    /// It cannot be read.
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// It is not what it should be.
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl fmt::Display for DescribedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => {
                write!(
                    f,
                    "env EMBEDDED_TENANTS names {}, which cannot be read: {error}",
                    path.display()
                )
            }
            Self::Content { path, problem } => write!(
                f,
                "env EMBEDDED_TENANTS names {}, which is not a JSON array of tenants: {problem}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DescribedError {}

/// Names that the management API shows and nobody sets.
const READ_ONLY: [&str; 3] = ["id", "inserted_at", "updated_at"];

impl Described {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`DescribedError`].
    pub fn read(path: &Path) -> Result<Self, DescribedError> {
        let text = std::fs::read(path).map_err(|error| DescribedError::File {
            path: path.to_owned(),
            error,
        })?;
        let mut described = Self {
            path: path.to_owned(),
            tenants: Vec::new(),
        };
        let list: Vec<Map<String, Value>> =
            serde_json::from_slice(&text).map_err(|error| described.wrong(error.to_string()))?;
        let mut names = HashSet::with_capacity(list.len());
        for (index, mut attributes) in list.into_iter().enumerate() {
            attributes.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
            let external_id = attributes.get("external_id").and_then(Value::as_str);
            let external_id = external_id.unwrap_or_default().to_owned();
            // The API ignores names that it does not know; in a file such a name is a slip that nobody would notice.
            if let Some(unknown) = attributes
                .keys()
                .find(|name| !TenantRecord::ATTRIBUTES.contains(&name.as_str()))
            {
                let problem = format!(
                    "tenant {external_id:?}, entry {index}: there is no attribute {unknown:?}"
                );
                return Err(described.wrong(problem));
            }
            if !names.insert(external_id.clone()) {
                return Err(described.wrong(format!("tenant {external_id:?} stands in it twice")));
            }
            described.tenants.push(Description {
                external_id,
                attributes,
            });
        }
        Ok(described)
    }

    /// The tenants of the file.
    #[must_use]
    pub fn tenants(&self) -> &[Description] {
        &self.tenants
    }

    /// Records that are what the file says, made of those that are there.
    ///
    /// # Errors
    ///
    /// [`DescribedError`]: what is wrong with the first that is wrong.
    pub fn records(
        &self,
        known: &[TenantRecord],
        defaults: &TenantDefaults,
        unix_now: i64,
    ) -> Result<Vec<TenantRecord>, DescribedError> {
        let known: HashMap<&str, &TenantRecord> = known
            .iter()
            .map(|record| (record.external_id.as_str(), record))
            .collect();
        let mut records = Vec::with_capacity(self.tenants.len());
        for (index, one) in self.tenants.iter().enumerate() {
            let known = known.get(one.external_id.as_str());
            let mut record = known.map_or_else(
                || TenantRecord::new(&one.external_id, defaults, unix_now),
                |known| (*known).clone(),
            );
            apply(&mut record, &one.attributes, unix_now).map_err(|errors| {
                self.wrong(format!(
                    "tenant {:?}, entry {index}: {}",
                    one.external_id,
                    Value::Object(errors)
                ))
            })?;
            records.push(record);
        }
        Ok(records)
    }

    fn wrong(&self, problem: String) -> DescribedError {
        DescribedError::Content {
            path: self.path.clone(),
            problem,
        }
    }
}
