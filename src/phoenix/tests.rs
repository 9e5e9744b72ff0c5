//! Both serializers against the examples of the specification, the recordings of the original, and any bytes.

mod frames;
mod join;
mod properties;

pub(crate) use properties::any_json;
