//! What a client is told when it cannot be subscribed, built from the rules of the protocol and not by the server's code.

use serde_json::Value;

/// A filter as the server understood it: column, operator, value, negated.
pub type Filter = (String, String, String, bool);

/// A subscription as the server understood it.
pub struct Params {
    pub action: String,
    pub schema: String,
    pub table: String,
    pub filters: Vec<Filter>,
    pub select: Option<Vec<String>>,
}

impl Params {
    /// Reads the result `ok` of a vector of `params.json`.
    pub fn of_vector(ok: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        let filter = |filter: &Value| {
            let negate = filter["negate"].as_bool().expect("it is a flag");
            (
                text(&filter["column"]),
                text(&filter["op"]),
                text(&filter["value"]),
                negate,
            )
        };
        let list = |value: &Value| value.as_array().cloned();
        Self {
            action: text(&ok["action"]),
            schema: text(&ok["schema"]),
            table: text(&ok["table"]),
            filters: list(&ok["filters"])
                .expect("they are a list")
                .iter()
                .map(filter)
                .collect(),
            select: list(&ok["select"]).map(|list| list.iter().map(text).collect()),
        }
    }

    /// Understands an entry of a join with at most one filter, unquoted and not negated.
    pub fn of_entry(entry: &Value) -> Self {
        let text = |key: &str| entry[key].as_str().map(str::to_owned);
        let filter = text("filter").map(|filter| {
            let (column, rest) = filter.split_once('=').expect("a filter has a column");
            let (operator, value) = rest.split_once('.').expect("a filter has an operator");
            let list = value
                .strip_prefix('(')
                .and_then(|value| value.strip_suffix(')'));
            let value = match list {
                Some(list) if operator == "in" => format!("{{{list}}}"),
                _ => value.to_owned(),
            };
            (column.to_owned(), operator.to_owned(), value, false)
        });
        let select = entry["select"].as_array().map(|list| {
            let names = list.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        });
        Self {
            action: match text("event").map(|event| event.to_uppercase()).as_deref() {
                Some(event @ ("INSERT" | "UPDATE" | "DELETE")) => event.to_owned(),
                _ => "*".to_owned(),
            },
            schema: text("schema").unwrap_or_else(|| "public".to_owned()),
            table: text("table").unwrap_or_else(|| "*".to_owned()),
            filters: filter.into_iter().collect(),
            select,
        }
    }

    /// The text when no published table matches.
    pub fn not_enabled(&self) -> String {
        format!(
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect \
             parameters: [{}]",
            self.inspect()
        )
    }

    /// The text when the database refuses.
    pub fn exception(&self, sqlstate: &str, message: &str) -> String {
        format!(
            "Unable to subscribe to changes with given parameters. An exception happened so please check your connect \
             parameters: [{}]. Exception: ERROR {sqlstate} ({}) {message}",
            self.inspect(),
            condition(sqlstate)
        )
    }

    fn inspect(&self) -> String {
        let filter = |(column, operator, value, negate): &Filter| {
            let [column, operator, value] = [column, operator, value].map(|text| inspect(text));
            format!("{{{column}, {operator}, {value}, {negate}}}")
        };
        let filters: Vec<String> = self.filters.iter().map(filter).collect();
        let select = match &self.select {
            Some(names) => {
                let names: Vec<String> = names.iter().map(|name| inspect(name)).collect();
                format!("[{}]", names.join(", "))
            }
            None => "nil".to_owned(),
        };
        format!(
            "event: {}, schema: {}, table: {}, filters: [{}], select: {select}",
            self.action,
            self.schema,
            self.table,
            filters.join(", ")
        )
    }
}

/// The name that PostgreSQL's manual gives to an SQLSTATE.
fn condition(sqlstate: &str) -> &'static str {
    match sqlstate {
        "22007" => "invalid_datetime_format",
        "22P02" => "invalid_text_representation",
        "23502" => "not_null_violation",
        "42704" => "undefined_object",
        "42883" => "undefined_function",
        "P0001" => "raise_exception",
        other => panic!("{other} has no name here"),
    }
}

/// A text as Elixir's `inspect` shows it: printable ones only need their quotes, backslashes and control characters escaped.
fn inspect(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out.replace("#{", "\\#{")
}

/// A test of this file.
pub fn texts_are_inspected_as_elixir_does() {
    assert_eq!(inspect("a"), r#""a""#);
    assert_eq!(
        inspect("O'Brien \"x\" \\ \t#{y} ü"),
        r#""O'Brien \"x\" \\ \t\#{y} ü""#
    );
    // As recorded: `postgres_changes_errors`.
    let entry = serde_json::json!({"event": "*", "schema": "public", "table": "todos", "filter": "n=eq.abc"});
    assert_eq!(
        Params::of_entry(&entry)
            .exception("22P02", "invalid input syntax for type integer: \"abc\""),
        "Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: \
         [event: *, schema: public, table: todos, filters: [{\"n\", \"eq\", \"abc\", false}], select: nil]. Exception: ERROR \
         22P02 (invalid_text_representation) invalid input syntax for type integer: \"abc\""
    );
    let entry = serde_json::json!({"schema": "nope", "table": "*", "select": ["a", "b"]});
    assert_eq!(
        Params::of_entry(&entry).not_enabled(),
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect \
         parameters: [event: *, schema: nope, table: *, filters: [], select: [\"a\", \"b\"]]"
    );
}
