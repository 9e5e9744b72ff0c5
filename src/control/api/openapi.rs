//! The API described for machines, and for people without a script (spec: http-api 7).
//!
//! What comes in: `openapi.json`, which is kept by hand. What goes out: the document with this version, and a page that says the same.
//! What always holds: every route under `/api` is described, and nothing that there is not (`every_route_is_described`). Deliberately
//! absent: Swagger UI, a script of a megabyte that would have to be fetched from elsewhere or kept here.

use super::respond::{self, escaped};
use crate::control::pages;
use crate::control::pages::assets::File;
use axum::body::Body;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use serde_json::Value;
use std::fmt::Write;
use std::sync::LazyLock;

const SOURCE: &str = include_str!("openapi.json");

static DOCUMENT: LazyLock<String> = LazyLock::new(|| parsed().to_string());

static PAGE: LazyLock<File> =
    LazyLock::new(|| pages::filled("api.html", &[("operations", &operations(&parsed()))]));

/// `GET /api/openapi`.
pub async fn document() -> Response<Body> {
    respond::json(StatusCode::OK, DOCUMENT.as_str())
}

/// `GET /swaggerui`.
pub async fn for_people(headers: HeaderMap) -> Response<Body> {
    pages::send(&PAGE, &headers)
}

/// The document with the version of this server.
pub(super) fn parsed() -> Value {
    let mut document: Value = serde_json::from_str(SOURCE).expect("a test reads the same text");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document
}

/// One section an operation.
fn operations(document: &Value) -> String {
    let mut body = String::new();
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let method = method.to_uppercase();
            let text = |name: &str| escaped(operation[name].as_str().unwrap_or_default());
            // Writing to a string cannot fail.
            let _ = writeln!(
                body,
                "<section class=\"card\">\n<h2><code>{method} {path}</code></h2>\n<p>{}. {}</p>\n<table class=\"data\">\n<tbody>",
                text("summary"),
                text("description"),
                path = escaped(path)
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let text = |name: &str| escaped(parameter[name].as_str().unwrap_or_default());
                let _ = writeln!(
                    body,
                    "<tr><th scope=\"row\"><code>{}</code> <span class=\"muted\">{}</span></th><td>{}</td></tr>",
                    text("name"),
                    text("in"),
                    text("description")
                );
            }
            let responses = operation["responses"].as_object().into_iter().flatten();
            for (status, response) in responses {
                let description = escaped(response["description"].as_str().unwrap_or_default());
                let _ = writeln!(
                    body,
                    "<tr><th scope=\"row\">{status}</th><td>{description}</td></tr>"
                );
            }
            body.push_str("</tbody>\n</table>\n</section>\n");
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in a document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(target)) = object.get("$ref") {
                    found.push(target.clone());
                }
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn document_is_complete_in_itself() {
        let document = parsed();
        assert_eq!(document["openapi"], "3.0.3");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let server = &document["servers"][0];
        assert_eq!(server["url"], "https://{tenant}.supabase.co/realtime/v1");
        assert_eq!(server["variables"]["tenant"]["default"], "tenant");
        let scheme = &document["components"]["securitySchemes"]["authorization"];
        assert_eq!(scheme["scheme"], "bearer");
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for target in found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }

    #[test]
    fn page_names_every_operation_and_runs_nothing() {
        let page = str::from_utf8(&PAGE.plain).unwrap();
        for part in [
            "PATCH /api/tenants/{tenant_id}",
            "POST /api/broadcast",
            "href=\"/api/openapi\"",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            !page.contains("<script") && !page.contains("src="),
            "{page}"
        );
    }
}
