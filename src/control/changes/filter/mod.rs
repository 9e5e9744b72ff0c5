//! Filters: checked against a table when somebody subscribes, and evaluated for each change (spec: postgres-changes 3.3, 5.6).
//!
//! What comes in: a [`Wish`](super::wish::Wish) and a table as it is now, later texts of a column's values. What goes out: [`Checked`] or the reason of
//! the refusal, later a [`Truth`] per value. What always holds: an answer is the one that PostgreSQL gives to the same comparison
//! (`tests/database/filters` asks both); what is not certain is asked, in batches, and an error there is the answer no for its
//! value alone; nothing is written to the database. Deliberately absent: columns that a change does not have, and for how long an
//! answer of [`check()`] is good.
//!
//! Who compares, by the column's type (of a domain: its base type):
//!
//! | type | `eq neq in isdistinct` | `lt lte gt gte` |
//! | --- | --- | --- |
//! | smallint, integer, bigint, oid, numeric, real, double precision | here | here |
//! | boolean, uuid, date, time, timestamp, timestamptz, macaddr, macaddr8, pg_lsn, bytea | here | here |
//! | text, varchar, char(n), name, unless their collation is nondeterministic | here | asked |
//! | enums, "char", timetz, inet, cidr, bit, varbit | here | asked |
//! | interval, money, jsonb, arrays, row types, ranges, citext, and all others | asked | asked |
//!
//! `is` is evaluated here except on row types, which may be null with a value; `like`, `ilike`, `match` and `imatch` are asked. A
//! value that is null is never asked for: every operator of these that PostgreSQL brings has its answer.
//!
//! A `bytea` is compared as clients read it, without `\x`, as the original does: `eq.deadbeef` finds `\xdeadbeef`, and
//! `eq.\xdeadbeef` does not. A `char(n)` is compared whole.

mod form;
pub mod ask;
pub mod check;

pub use ask::{Asker, Passed};
pub use check::{CheckError, Checked, check};

use super::wish::Operator;
use form::Form;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

/// One filter of a subscription, ready to be evaluated.
///
/// Two of them are equal when they let the same values pass, however their values were spelled; two that are not equal may still do so.
#[derive(Debug, Eq, PartialEq, Hash)]
pub struct Filter {
    column: Box<str>,
    type_oid: u32,
    /// `neq` is a negated `eq` here, and a negated comparison of order is its opposite.
    operator: Operator,
    negate: bool,
    value: Value,
    /// How values are compared here; nothing where PostgreSQL is asked.
    form: Option<Form>,
    /// What is asked, negation and all: the truth of `v.v` and `f.f`, texts of the column's value and of the filter's. Empty where
    /// nothing ever is.
    question: Rc<str>,
    /// How a column's text is changed before it is asked for.
    shown: Option<Form>,
}

/// What a filter compares with.
#[derive(Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
enum Value {
    /// A value's text; canonical if it is compared here.
    One(Box<str>),
    /// Canonical texts in the order of their bytes, each of them once.
    List {
        elements: Box<[Box<str>]>,
        has_null: bool,
    },
    /// An array's text, for PostgreSQL.
    Array { text: Box<str>, is_empty: bool },
    /// What `is` says.
    Keyword(Keyword),
}

/// What a value may be.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
enum Keyword {
    Null,
    True,
    False,
    Unknown,
}

impl Keyword {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "null" => Self::Null,
            "true" => Self::True,
            "false" => Self::False,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }

    const fn is(self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Null | Self::Unknown, value) => value.is_none(),
            // As PostgreSQL prints a boolean.
            (Self::True, Some(text)) => matches!(text.as_bytes(), b"t"),
            (Self::False, Some(text)) => matches!(text.as_bytes(), b"f"),
            (Self::True | Self::False, None) => false,
        }
    }
}

/// Whether a value passes a filter.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// SQL's null: it does not, negated or not.
    Unknown,
    /// Only PostgreSQL can say: [`ask`].
    Ask,
}

impl Truth {
    const fn of(truth: bool) -> Self {
        if truth { Self::Yes } else { Self::No }
    }

    const fn negated_if(self, negate: bool) -> Self {
        match (self, negate) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (truth, _) => truth,
        }
    }
}

impl Filter {
    /// A filter that compares with one value of a type of PostgreSQL's own, given as PostgreSQL prints it; for tests and benchmarks. None
    /// where such values are not compared here. Values that clients send have to be read by PostgreSQL first: [`check()`].
    #[doc(hidden)]
    #[must_use]
    pub fn native(
        column: &str,
        type_oid: u32,
        operator: Operator,
        negate: bool,
        value: &str,
    ) -> Option<Self> {
        let form = form_of(operator, Form::of(type_oid, false, true))?;
        if operator == Operator::In {
            return None;
        }
        let (operator, negate) = spelled_once(operator, negate);
        Some(Self {
            column: column.into(),
            type_oid,
            operator,
            negate,
            value: Value::One(form.canonical_of_filter(value)),
            form: Some(form),
            question: "".into(),
            shown: Some(form),
        })
    }

    /// The column's name.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// The type that the column had when the filter was checked. With another one the filter has to be checked again.
    #[must_use]
    pub const fn type_oid(&self) -> u32 {
        self.type_oid
    }

    /// Whether a value of the column passes; none is SQL's null. `value` is the text that PostgreSQL prints in a session that is set up
    /// as `database::connect` does.
    #[must_use]
    pub fn eval(&self, value: Option<&str>) -> Truth {
        let truth = match value {
            None => self.eval_null(),
            Some(text) => self.eval_text(text),
        };
        truth.negated_if(self.negate)
    }

    fn eval_null(&self) -> Truth {
        match (&self.value, self.operator) {
            (Value::Keyword(keyword), _) => Truth::of(keyword.is(None)),
            (_, Operator::IsDistinct) => Truth::Yes,
            // `= any` of an empty array compares nothing.
            (Value::Array { is_empty: true, .. }, _) => Truth::No,
            (Value::List { elements, has_null }, _) if elements.is_empty() && !has_null => {
                Truth::No
            }
            _ => Truth::Unknown,
        }
    }

    fn eval_text(&self, text: &str) -> Truth {
        let Some(form) = self.form else {
            return match self.value {
                Value::Keyword(keyword) if self.question.is_empty() => {
                    Truth::of(keyword.is(Some(text)))
                }
                _ => Truth::Ask,
            };
        };
        let text = form.canonical(text);
        match &self.value {
            Value::List { elements, has_null } => {
                let place = elements.binary_search_by(|element| (**element).cmp(&text));
                match place {
                    Ok(_) => Truth::Yes,
                    Err(_) if *has_null => Truth::Unknown,
                    Err(_) => Truth::No,
                }
            }
            Value::One(value) => match self.operator {
                Operator::Eq => Truth::of(**value == text),
                Operator::IsDistinct => Truth::of(**value != text),
                _ => form
                    .order(&text, value)
                    .map_or(Truth::Ask, |order| Truth::of(self.holds_for(order))),
            },
            Value::Array { .. } | Value::Keyword(_) => Truth::Ask,
        }
    }

    fn holds_for(&self, order: Ordering) -> bool {
        match self.operator {
            Operator::Lt => order.is_lt(),
            Operator::Lte => order.is_le(),
            Operator::Gt => order.is_gt(),
            Operator::Gte => order.is_ge(),
            _ => false,
        }
    }

    /// What stands for `f.f` in [`Self::question`].
    fn operand(&self) -> &str {
        match &self.value {
            Value::One(text) | Value::Array { text, .. } => text,
            Value::List { .. } | Value::Keyword(_) => "",
        }
    }

    /// What stands for `v.v` there.
    fn asked_as<'a>(&self, value: &'a str) -> &'a str {
        self.shown.map_or(value, |form| form.shown(value))
    }

    /// The order in which filters stand.
    fn sort_key(&self) -> (&str, Operator, bool, &Value) {
        (&self.column, self.operator, self.negate, &self.value)
    }

    /// For a filter that only values equal to one pass, evaluated here: that value's text. `eval(Some(value))` is yes exactly if
    /// `canonical(value)` is this text.
    #[must_use]
    pub fn equality(&self) -> Option<&str> {
        match (&self.value, self.operator, self.form) {
            (Value::One(value), Operator::Eq, Some(_)) if !self.negate => Some(value),
            _ => None,
        }
    }

    /// The text that stands for all values of the column which are equal to this one; the text itself where filters are asked. The
    /// same for all filters on columns of one type that are evaluated here.
    #[must_use]
    pub fn canonical<'a>(&self, value: &'a str) -> Cow<'a, str> {
        self.form
            .map_or(Cow::Borrowed(value), |form| form.canonical(value))
    }
}

/// How an operator compares values here, if it does; `form` is how the column's type does.
fn form_of(operator: Operator, form: Option<Form>) -> Option<Form> {
    use Operator::{Eq, Gt, Gte, In, IsDistinct, Lt, Lte, Neq};
    match operator {
        Eq | Neq | In | IsDistinct => form,
        Lt | Lte | Gt | Gte => form.filter(|form| form.is_ordered()),
        _ => None,
    }
}

/// The operator and whether it is negated, where values are compared here: one spelling for what is the same.
const fn spelled_once(operator: Operator, negate: bool) -> (Operator, bool) {
    match operator {
        Operator::Neq => (Operator::Eq, !negate),
        Operator::Lt if negate => (Operator::Gte, false),
        Operator::Lte if negate => (Operator::Gt, false),
        Operator::Gt if negate => (Operator::Lte, false),
        Operator::Gte if negate => (Operator::Lt, false),
        _ => (operator, negate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(operator: Operator, negate: bool, value: Value, form: Option<Form>) -> Filter {
        Filter {
            column: "c".into(),
            type_oid: 0,
            operator,
            negate,
            value,
            form,
            question: if form.is_none() { "q" } else { "" }.into(),
            shown: form,
        }
    }

    fn list(elements: &[&str], has_null: bool) -> Value {
        Value::List {
            elements: elements.iter().map(|&element| element.into()).collect(),
            has_null,
        }
    }

    fn check(filter: &Filter, value: Option<&str>, expected: Truth) {
        assert_eq!(filter.eval(value), expected, "{filter:?} {value:?}");
    }

    #[test]
    fn null_passes_is_and_isdistinct_alone() {
        use Truth::{No, Unknown, Yes};
        let one = || Value::One("1".into());
        for form in [Some(Form::Integer), None] {
            for negate in [false, true] {
                for operator in [Operator::Eq, Operator::Lt, Operator::Like, Operator::In] {
                    check(&filter(operator, negate, one(), form), None, Unknown);
                }
            }
            check(&filter(Operator::IsDistinct, false, one(), form), None, Yes);
            check(&filter(Operator::IsDistinct, true, one(), form), None, No);
        }
    }

    #[test]
    fn a_list_with_a_null_never_says_no() {
        let has = |elements: &[&str], has_null, negate| {
            filter(
                Operator::In,
                negate,
                list(elements, has_null),
                Some(Form::Integer),
            )
        };
        check(&has(&["1", "2"], true, false), Some("2"), Truth::Yes);
        check(&has(&["1", "2"], true, true), Some("2"), Truth::No);
        check(&has(&["1", "2"], true, false), Some("3"), Truth::Unknown);
        check(&has(&["1", "2"], true, true), Some("3"), Truth::Unknown);
        check(&has(&["1", "2"], false, true), Some("3"), Truth::Yes);
    }

    #[test]
    fn an_empty_list_has_nothing_not_even_for_null() {
        let array = Value::Array {
            text: "{}".into(),
            is_empty: true,
        };
        check(
            &filter(Operator::In, false, list(&[], false), Some(Form::Plain)),
            None,
            Truth::No,
        );
        check(
            &filter(Operator::In, true, list(&[], false), Some(Form::Plain)),
            None,
            Truth::Yes,
        );
        check(
            &filter(Operator::In, true, list(&[], true), Some(Form::Plain)),
            None,
            Truth::Unknown,
        );
        check(&filter(Operator::In, true, array, None), None, Truth::Yes);
    }

    #[test]
    fn what_has_no_order_here_is_asked() {
        let lt = |form| filter(Operator::Lt, true, Value::One("1".into()), form);
        check(&lt(Some(Form::Integer)), Some("x"), Truth::Ask);
        check(&lt(None), Some("0"), Truth::Ask);
        check(&lt(Some(Form::Integer)), Some("0"), Truth::No);
    }

    #[test]
    fn equality_is_of_filters_that_one_value_passes() {
        let of = |operator, negate, form| {
            let filter = filter(operator, negate, Value::One("1.5".into()), form);
            filter.equality().map(str::to_owned)
        };
        assert_eq!(
            of(Operator::Eq, false, Some(Form::Numeric)).as_deref(),
            Some("1.5")
        );
        assert_eq!(of(Operator::Eq, true, Some(Form::Numeric)), None);
        assert_eq!(of(Operator::Lt, false, Some(Form::Numeric)), None);
        assert_eq!(of(Operator::Eq, false, None), None);
        let eq = filter(
            Operator::Eq,
            false,
            Value::One("1.5".into()),
            Some(Form::Numeric),
        );
        assert_eq!(eq.canonical("1.50"), "1.5");
        check(&eq, Some("1.50"), Truth::Yes);
    }
}
