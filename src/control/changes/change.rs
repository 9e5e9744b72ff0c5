//! A change of a row.

/// What happened to a row.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Action {
    /// It was inserted.
    Insert,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
}

impl Action {
    /// As clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}
