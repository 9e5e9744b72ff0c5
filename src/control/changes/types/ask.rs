//! Values in JSON that only PostgreSQL knows.
//!
//! What comes in: texts of values whose types [`Type::needs_asking`]. What goes out: their JSON, as [`Type::write_json`] would write it.
//! What always holds: a value on which a cast raises costs the others nothing but queries (`one_bad_value_costs_no_other`).
//! Deliberately absent: time limits; those are the session's.

use super::Type;
use tokio_postgres::{Client, Error};

/// Asks for the JSON of these texts, type by type: one query each, and a few more for each value on which its cast raises. Such a value
/// has none.
///
/// # Errors
///
/// What breaks the connection, or cancels a statement.
pub async fn ask_json(
    client: &Client,
    questions: &[(&Type, Vec<&str>)],
) -> Result<Vec<Vec<Option<Box<str>>>>, Error> {
    let mut answers = Vec::with_capacity(questions.len());
    for (asked, texts) in questions {
        answers.push(ask_type(client, asked, texts).await?);
    }
    Ok(answers)
}

async fn ask_type(
    client: &Client,
    asked: &Type,
    texts: &[&str],
) -> Result<Vec<Option<Box<str>>>, Error> {
    let query = format!(
        "select pg_catalog.to_jsonb(v::{})::pg_catalog.text from pg_catalog.unnest($1::pg_catalog.text[]) with ordinality u(v, n) order by n",
        asked.sql_name()
    );
    let mut answers: Vec<Option<Box<str>>> = vec![None; texts.len()];
    // Parts that are still to be asked, each from one place up to another.
    let mut waiting = vec![(0, texts.len())];
    while let Some((start, end)) = waiting.pop() {
        let part = start..end;
        if part.is_empty() {
            continue;
        }
        match client.query(&query, &[&&texts[part.clone()]]).await {
            Ok(rows) => {
                for (answer, row) in answers[part].iter_mut().zip(&rows) {
                    *answer = row
                        .try_get::<_, Option<String>>(0)?
                        .map(String::into_boxed_str);
                }
            }
            Err(error) if !is_about_a_value(&error) => return Err(error),
            Err(_) if part.len() == 1 => {}
            Err(_) => {
                let middle = start + part.len() / 2;
                waiting.extend([(start, middle), (middle, end)]);
            }
        }
    }
    Ok(answers)
}

/// Whether the values, or what casts them, are to blame. What says that the server is in need is no reason to ask it more often
/// (classes 53, 57, 58 and the connection's own).
fn is_about_a_value(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|code| !["08", "53", "57", "58"].contains(&&code.code()[..2]))
}
