//! Why a schema could not be brought up to date, in sentences that name the statement that helps.

use std::fmt;

/// Why `migrate` did not. The text is a sentence for the operator.
#[derive(Debug)]
pub enum MigrationError {
    /// The user of the connection may not do what is needed.
    Privileges {
        /// That user.
        user: String,
        /// The database.
        database: String,
        /// What is missing; never empty.
        missing: Vec<Privilege>,
    },
    /// Something else lives where our objects belong.
    Unusable(String),
    /// PostgreSQL is older than 14.
    TooOld(i32),
    /// A step failed.
    Step {
        /// The step.
        name: &'static str,
        /// What PostgreSQL said.
        error: tokio_postgres::Error,
    },
    /// What stands around the steps failed: the survey, the lock, the commit.
    Database(tokio_postgres::Error),
}

/// A right that is missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Privilege {
    /// What cannot be done without it.
    pub what: String,
    /// The statement that gives it, for somebody who has it.
    pub statement: String,
}

impl From<tokio_postgres::Error> for MigrationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl MigrationError {
    /// Whether another server did the same thing at the same moment, in this database or, with roles, in one beside it. Trying
    /// again finds what it made.
    #[must_use]
    pub fn is_collision(&self) -> bool {
        let (Self::Step { error, .. } | Self::Database(error)) = self else {
            return false;
        };
        let Some(error) = error.as_db_error() else {
            return false;
        };
        // Duplicates, deadlocks, and the one that has no code of its own: two sessions changed one row of a catalog.
        matches!(
            error.code().code(),
            "23505" | "40001" | "40P01" | "42710" | "42P06" | "42P07" | "42723"
        ) || error.message() == "tuple concurrently updated"
    }
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privileges {
                user,
                database,
                missing,
            } => {
                write!(
                    f,
                    "user {user} may not set up schema realtime of database {database}; let somebody who may execute:"
                )?;
                for privilege in missing {
                    write!(f, " {}; -- {}.", privilege.statement, privilege.what)?;
                }
                Ok(())
            }
            Self::Unusable(sentence) => f.write_str(sentence),
            Self::TooOld(version) => write!(
                f,
                "PostgreSQL {} is too old, 14 is the oldest that works",
                version / 10_000
            ),
            Self::Step { name, error } => {
                write!(
                    f,
                    "the step {name} of schema realtime failed: {}",
                    said(error)
                )
            }
            Self::Database(error) => {
                write!(f, "schema realtime could not be looked at: {}", said(error))
            }
        }
    }
}

impl std::error::Error for MigrationError {}

/// What PostgreSQL said, without details: those may hold rows.
#[must_use]
pub fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => error.to_string(),
    }
}
