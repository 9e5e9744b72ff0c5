//! The process. Nothing is served yet: the rooms come first.

fn main() {}
