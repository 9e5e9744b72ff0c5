use super::*;

fn simple(kind: Kind) -> Rc<Type> {
    Rc::new(Type::new(1, "public", "simple", kind))
}

fn array_of(element: Rc<Type>) -> Rc<Type> {
    simple(Kind::Array {
        element,
        delimiter: ',',
    })
}

fn row(fields: &[(&str, &Rc<Type>)]) -> Rc<Type> {
    let fields = fields
        .iter()
        .map(|(name, field)| ((*name).into(), Rc::clone(field)));
    simple(Kind::Composite(Fields::new(fields.collect())))
}

fn json(of: &Type, text: &str) -> Result<String, Malformed> {
    let mut out = b"before".to_vec();
    let written = of.write_json(&mut out, text);
    let json = String::from_utf8(out).expect("JSON is UTF-8").split_off(6);
    match written {
        Ok(()) => Ok(json),
        Err(error) => {
            assert_eq!(json, "", "nothing is appended of {text}");
            Err(error)
        }
    }
}

/// Values of one type, each with its JSON.
fn check(of: &Type, values: &[(&str, &str)]) {
    for (text, expected) in values {
        assert_eq!(json(of, text).as_deref(), Ok(*expected), "{text}");
    }
}

#[test]
fn simple_values_look_as_to_jsonb_makes_them() {
    check(&simple(Kind::Bool), &[("t", "true"), ("f", "false")]);
    check(
        &simple(Kind::Integer),
        &[("-9223372036854775808", "-9223372036854775808")],
    );
    check(
        &simple(Kind::Numeric),
        &[("1.50", "1.50"), ("0.000", "0.000")],
    );
    check(
        &simple(Kind::Double),
        &[
            ("1e+21", "1000000000000000000000"),
            ("1e-07", "0.0000001"),
            ("-0", "0"),
        ],
    );
    check(
        &simple(Kind::Other),
        &[
            ("", "\"\""),
            (
                "q\"uo'te \\ \n\t\u{1}é😀",
                "\"q\\\"uo'te \\\\ \\n\\t\\u0001é😀\"",
            ),
        ],
    );
    check(&simple(Kind::Enum), &[("happy", "\"happy\"")]);
    check(&simple(Kind::Jsonb), &[("{\"a\": 1}", "{\"a\": 1}")]);
    check(&simple(Kind::Json), &[("{\"a\":1e1}", "{\"a\": 10}")]);
}

#[test]
fn timestamps_have_a_t_and_minutes_in_their_zone() {
    check(
        &simple(Kind::Timestamp),
        &[
            (
                "2024-02-29 12:34:56.123456",
                "\"2024-02-29T12:34:56.123456\"",
            ),
            ("0044-03-15 00:00:00 BC", "\"0044-03-15T00:00:00 BC\""),
            (
                "294276-12-31 23:59:59.999999",
                "\"294276-12-31T23:59:59.999999\"",
            ),
            ("-infinity", "\"-infinity\""),
        ],
    );
    check(
        &simple(Kind::TimestampTz),
        &[
            (
                "2024-02-29 10:34:56.1+00",
                "\"2024-02-29T10:34:56.1+00:00\"",
            ),
            ("2024-02-29 10:34:56-03", "\"2024-02-29T10:34:56-03:00\""),
            ("2024-02-29 10:34:56+05:30", "\"2024-02-29T10:34:56+05:30\""),
            (
                "1850-01-01 00:00:00+00:53:28",
                "\"1850-01-01T00:00:00+00:53:28\"",
            ),
            (
                "0044-03-15 00:00:00+00 BC",
                "\"0044-03-15T00:00:00+00:00 BC\"",
            ),
            ("infinity", "\"infinity\""),
        ],
    );
}

/// wal2json prints columns by their own type: a domain is another one.
#[test]
fn columns_that_are_bytes_or_no_number_differ_from_what_stands_within() {
    let bytea = simple(Kind::Bytea);
    check(
        &bytea,
        &[("\\xdeadbeef00", "\"deadbeef00\""), ("\\x", "\"\"")],
    );
    check(
        &array_of(Rc::clone(&bytea)),
        &[(r#"{"\\x01",NULL}"#, r#"["\\x01", null]"#)],
    );
    check(&simple(Kind::Domain(bytea)), &[("\\x01", r#""\\x01""#)]);
    for kind in [Kind::Numeric, Kind::Real, Kind::Double] {
        let number = simple(kind);
        check(
            &number,
            &[("NaN", "null"), ("Infinity", "null"), ("-Infinity", "null")],
        );
        check(
            &array_of(Rc::clone(&number)),
            &[("{NaN,-Infinity,1}", r#"["NaN", "-Infinity", 1]"#)],
        );
        check(&simple(Kind::Domain(number)), &[("NaN", "\"NaN\"")]);
    }
}

#[test]
fn arrays_and_rows_are_written_with_what_stands_in_them() {
    let (integer, text) = (simple(Kind::Integer), simple(Kind::Other));
    check(
        &array_of(Rc::clone(&integer)),
        &[
            ("{}", "[]"),
            ("{1,NULL}", "[1, null]"),
            ("[0:1][1:1]={{1},{2}}", "[[1], [2]]"),
        ],
    );
    check(
        &simple(Kind::Vector(Rc::clone(&integer))),
        &[("", "[]"), ("1", "[1]"), ("1 2", "[1, 2]")],
    );
    let inner = row(&[
        ("longer", &integer),
        ("b", &text),
        ("a\"", &array_of(Rc::clone(&text))),
    ]);
    // Keys by length, then by bytes.
    check(
        &inner,
        &[(
            r#"(1,,"{""x y"",z}")"#,
            r#"{"b": null, "a\"": ["x y", "z"], "longer": 1}"#,
        )],
    );
    let domain = simple(Kind::Domain(Rc::clone(&inner)));
    let outer = row(&[("d", &array_of(domain))]);
    check(
        &outer,
        &[(
            r#"("{""(1,\\""\\"",)"",NULL}")"#,
            r#"{"d": [{"b": "", "a\"": null, "longer": 1}, null]}"#,
        )],
    );
    check(&row(&[]), &[("()", "{}")]);
    check(&row(&[("a", &integer)]), &[("()", r#"{"a": null}"#)]);
}

#[test]
fn what_no_type_knows_appends_nothing() {
    let integer = simple(Kind::Integer);
    for (of, text) in [
        (simple(Kind::Bool), "true"),
        (Rc::clone(&integer), "x"),
        (Rc::clone(&integer), ""),
        (simple(Kind::Numeric), "1,2"),
        (simple(Kind::Double), "nan"),
        (simple(Kind::Timestamp), "2024-02-29"),
        (simple(Kind::Timestamp), "2024-02-29 00:00:00+00"),
        (simple(Kind::TimestampTz), "2024-02-29 00:00:00"),
        (simple(Kind::Timestamp), "2024-02-29 \"00:00"),
        (simple(Kind::Bytea), "00"),
        (simple(Kind::Bytea), "\\x0\""),
        (simple(Kind::Json), "{"),
        (simple(Kind::Json), ""),
        (simple(Kind::Jsonb), ""),
        (simple(Kind::CastToJson), "{}"),
        (array_of(Rc::clone(&integer)), "{1,2"),
        (array_of(Rc::clone(&integer)), "{1,x}"),
        (simple(Kind::Vector(Rc::clone(&integer))), "1 x"),
        (row(&[("a", &integer)]), "(1,2)"),
        (row(&[]), "(1)"),
        (row(&[("a", &integer), ("b", &integer)]), "(1,x)"),
        (simple(Kind::Domain(integer)), "x"),
    ] {
        assert_eq!(json(&of, text), Err(Malformed), "{text}");
    }
}

#[test]
fn values_that_swell_have_a_ceiling() {
    // Six bytes each in the database, 131,072 here.
    let text = format!(
        "[{}1]",
        "1e131071,".repeat(limits::CHANGE_VALUE_JSON_BYTES_MAX / 131_072)
    );
    assert_eq!(json(&simple(Kind::Json), &text), Err(Malformed));
    let name = "n".repeat(63);
    let integer = simple(Kind::Integer);
    let wide = row(&vec![(name.as_str(), &integer); 1000]);
    let element = format!("\"({})\"", ",".repeat(999));
    let text = format!(
        "{{{}{element}}}",
        format!("{element},").repeat(limits::CHANGE_VALUE_JSON_BYTES_MAX / 60_000)
    );
    assert_eq!(json(&array_of(wide), &text), Err(Malformed));
}

#[test]
fn types_in_which_too_many_stand_are_asked_about() {
    let mut deep = simple(Kind::Integer);
    for _ in 1..limits::CHANGE_TYPE_NESTING_MAX {
        deep = simple(Kind::Domain(deep));
    }
    assert!(!deep.needs_asking());
    assert_eq!(json(&deep, "7").as_deref(), Ok("7"));
    deep = simple(Kind::Domain(deep));
    assert!(deep.needs_asking() && array_of(deep).needs_asking());

    let mut wide = simple(Kind::Integer);
    for _ in 0..13 {
        wide = row(&[("a", &wide), ("b", &wide)]);
    }
    assert!(!wide.needs_asking());
    assert!(row(&[("a", &wide), ("b", &wide)]).needs_asking());

    let asked = simple(Kind::CastToJson);
    assert!(row(&[("a", &asked)]).needs_asking());
}

#[test]
fn names_are_quoted_in_sql() {
    let odd = Type::new(1, "My \"Schema\"", "mood", Kind::Enum);
    assert_eq!(odd.sql_name(), r#""My ""Schema"""."mood""#);
}
