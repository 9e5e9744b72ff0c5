//! The management API, row by row (spec: http-api 3).

use super::*;
use crate::control::registrar::tests::{Office, run as run_local};
use serde_json::{Value, json};

const SECRET: &str = "of the operators";

/// The API with tenants `a` and `db`, whose database cannot be reached.
pub(super) struct Desk {
    pub(super) api: Api,
    pub(super) app: App,
    pub(super) office: Office,
}

fn settings_of_database() -> Value {
    json!({"region": "r", "db_host": "127.0.0.1", "db_port": "1", "db_name": "n", "db_user": "u", "db_password": "p"})
}

impl Desk {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mut with_database = record("db");
        with_database.extensions.push(ExtensionRecord {
            kind: TenantRecord::POSTGRES_CDC.to_owned(),
            settings: settings_of_database().as_object().unwrap().clone(),
            inserted_at: 1_672_531_200,
            updated_at: 1_672_531_201,
            sealed: Sealed::default(),
        });
        let variables = [("API_JWT_SECRET", SECRET), ("REGION", "eu-1")];
        let office = Office::open(&[record("a"), with_database], false, &variables);
        let desk = crate::control::desk::Desk::for_test(|_, _| Err(AskError::Unreachable));
        let metrics = Metrics::for_test(None);
        let registrar = office.registrar.clone();
        let api = Api::new(settings, &office.environment, desk, metrics, registrar);
        let app = app(&api);
        Self { api, app, office }
    }

    /// With a good token.
    pub(super) async fn ask(&self, request: &str, body: &str) -> Answer {
        let token = sign_hs256(SECRET.as_bytes(), "{}");
        let request = format!("{request} | authorization: Bearer {token}");
        ask(&self.api, &self.app, &request, body).await
    }

    async fn tenant(&self, method: &str, path: &str, tenant: Value) -> Answer {
        let request = format!("{method} {path} | content-type: application/json");
        self.ask(&request, &json!({ "tenant": tenant }).to_string())
            .await
    }
}

fn body(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn nobody_without_a_token_sees_or_changes_anything() {
    run_local(async {
        let desk = Desk::new();
        let bad = sign_hs256(b"other", "{}");
        for (request, method) in [
            ("/api/tenants", "GET"),
            ("/api/tenants", "POST"),
            ("/api/tenants/a", "GET"),
            ("/api/tenants/a", "PUT"),
            ("/api/tenants/a", "PATCH"),
            ("/api/tenants/a", "DELETE"),
            ("/api/tenants/nosuch", "DELETE"),
            ("/api/tenants/a/reload", "POST"),
            ("/api/tenants/a/shutdown", "POST"),
            ("/api/tenants/a/health", "GET"),
            ("/api/tenants/nosuch/health", "GET"),
        ] {
            for header in [
                String::new(),
                format!(" | authorization: Bearer {bad}"),
                " | authorization: nospace".to_owned(),
                format!(" | apikey: {}", sign_hs256(SECRET.as_bytes(), "{}")),
            ] {
                let request =
                    format!("{method} {request} | content-type: application/json{header}");
                let answer = ask(&desk.api, &desk.app, &request, "{}").await;
                let seen = (answer.status, kind(&answer), answer.body.as_str());
                assert_eq!(seen, (403, "-", ""), "{request}");
            }
        }
        assert!(desk.office.store.stored("a").await.is_some());
    });
}

#[test]
fn a_tenant_is_shown_without_its_secrets() {
    run_local(async {
        let desk = Desk::new();
        let answer = desk.ask("GET /api/tenants/db", "").await;
        assert_eq!((answer.status, kind(&answer)), (200, "json"));
        let record = desk.office.store.stored("db").await.unwrap();
        // What this store has not encrypted is not shown at all.
        let settings = json!({"region": "r"});
        let expected = json!({
            "id": record.id, "external_id": "db", "name": "db", "max_concurrent_users": 200, "max_channels_per_client": 100,
            "max_events_per_second": 100, "max_joins_per_second": 100, "inserted_at": "1970-01-01T00:00:01",
            "extensions": [{"type": "postgres_cdc_rls", "settings": settings, "inserted_at": "2023-01-01T00:00:00",
                "updated_at": "2023-01-01T00:00:01"}],
            "private_only": false, "max_client_presence_events_per_window": null, "client_presence_window_ms": null,
            "presence_enabled": false,
        });
        assert_eq!(body(&answer), json!({"data": expected}));
        let list = body(&desk.ask("GET /api/tenants", "").await);
        let names: Vec<_> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["external_id"])
            .collect();
        assert_eq!(names, ["a", "db"]);
        assert_eq!(list["data"][1], expected);
        let head = desk.ask("HEAD /api/tenants/db", "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let zipped = desk
            .ask("GET /api/tenants | accept-encoding: gzip", "")
            .await;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    });
}

#[test]
fn every_request_of_an_operator_gets_the_answer_of_the_original() {
    const ANSWERS: &str = r#"
GET /api/tenants/nosuch ;; ;; 404 json ;; {"message":"not found"}
GET /api/tenants/%00 ;; ;; 404 json ;; {"message":"not found"}
GET /api/tenants/%ff ;; ;; 400 json ;; "Bad Request"
GET /realtime/v1/api/tenants/nosuch ;; ;; 404 json ;; {"message":"not found"}
GET /api/tenants/a | accept: text/html ;; ;; 406 html ;; Not Acceptable
GET /api/tenants/a/b ;; ;; 404 html ;; Not Found
PUT /api/tenants ;; {} ;; 404 html ;; Not Found
POST /api/tenants/a ;; {} ;; 404 html ;; Not Found
POST /api/tenants ;; not json ;; 400 html ;; Bad Request
POST /api/tenants ;; {} ;; 400 json ;; "Bad Request"
POST /api/tenants ;; {"tenant":"x"} ;; 400 json ;; "Bad Request"
POST /api/tenants ;; {"tenant":null} ;; 400 json ;; "Bad Request"
POST /api/tenants ;; [] ;; 400 json ;; "Bad Request"
POST /api/tenants ;; {"tenant":{}} ;; 422 json ;; {"errors":{"external_id":["can't be blank"]}}
POST /api/tenants ;; {"tenant":{"external_id":"x"}} ;; 422 json ;; {"errors":{"jwt_secret":["either jwt_secret or jwt_jwks must be provided"]}}
POST /api/tenants ;; {"tenant":{"external_id":"x","jwt_secret":"s"}} ;; 422 json ;; {"errors":{"extensions":["can't be blank"]}}
POST /api/tenants ;; {"tenant":{"external_id":"x","jwt_secret":"s","extensions":[]}} ;; 422 json ;; {"errors":{"extensions":["can't be blank"]}}
POST /api/tenants ;; {"tenant":{"external_id":"x","jwt_secret":"s","extensions":[{"type":"postgres_cdc_rls","settings":{}}]}} ;; 422 json ;; {"errors":{"extensions":[{"settings":["db_password can't be blank","db_user can't be blank","db_name can't be blank","db_port can't be blank","db_host can't be blank","region can't be blank"]}]}}
PUT /api/tenants/x ;; {"tenant":{"jwt_secret":"s"}} ;; 422 json ;; {"errors":{"extensions":["can't be blank"]}}
PUT /api/tenants/%00 ;; {"tenant":{"jwt_secret":"s"}} ;; 422 json ;; {"errors":{"external_id":["is invalid"]}}
PUT /api/tenants/a ;; {} ;; 400 json ;; "Bad Request"
PUT /api/tenants/a ;; {"tenant":[]} ;; 400 json ;; "Bad Request"
PUT /api/tenants/a ;; {"tenant":{"max_events_per_second":"abc"}} ;; 422 json ;; {"errors":{"max_events_per_second":["is invalid"]}}
PATCH /api/tenants/a ;; {"tenant":{"max_concurrent_users":null}} ;; 422 json ;; {"errors":{"max_concurrent_users":["can't be blank"]}}
PUT /api/tenants/a ;; {"tenant":{"extensions":{}}} ;; 422 json ;; {"errors":{"extensions":["is invalid"]}}
PUT /api/tenants/a ;; {"tenant":{"extensions":[{"type":"postgres"}]}} ;; 422 json ;; {"errors":{"extensions":[{"settings":["can't be blank"]}]}}
POST /api/tenants/a/reload ;; {} ;; 204 - ;;
POST /api/tenants/nosuch/reload ;; {} ;; 404 json ;; {"message":"not found"}
GET /api/tenants/a/reload ;; ;; 404 html ;; Not Found
POST /api/tenants/a/shutdown ;; {} ;; 204 - ;;
POST /api/tenants/nosuch/shutdown ;; {} ;; 404 json ;; {"message":"not found"}
GET /api/tenants/a/health ;; ;; 200 json ;; {"data":{"connected_cluster":0,"db_connected":false,"healthy":true,"node":"realtime@127.0.0.1","region":"eu-1","replication_connected":false}}
GET /api/tenants/db/health ;; ;; 200 json ;; {"data":{"connected_cluster":0,"db_connected":false,"healthy":false,"node":"realtime@127.0.0.1","region":"eu-1","replication_connected":false}}
GET /api/tenants/nosuch/health ;; ;; 404 json ;; {"message":"not found"}
DELETE /api/tenants/nosuch ;; ;; 204 - ;;
DELETE /api/tenants/a ;; ;; 204 - ;;
DELETE /api/tenants/a ;; {} ;; 204 - ;;
GET /api/tenants/a ;; ;; 404 json ;; {"message":"not found"}
GET /api/ping | host: a.x ;; ;; 401 json ;; {"message":"Tenant not found in database"}
"#;
    run_local(async {
        let desk = Desk::new();
        for row in ANSWERS.lines().filter(|row| !row.is_empty()) {
            let columns: Vec<&str> = row.split(";;").map(str::trim).collect();
            let request = format!("{} | content-type: application/json", columns[0]);
            let answer = desk.ask(&request, columns[1]).await;
            let outcome = format!("{} {}", answer.status, kind(&answer));
            assert_eq!(outcome, columns[2], "{row}");
            assert_eq!(answer.body, columns[3], "{row}");
        }
        assert!(desk.office.store.stored("x").await.is_none());
    });
}

#[test]
fn an_update_answers_with_the_tenant_and_where_it_is() {
    run_local(async {
        let desk = Desk::new();
        for method in ["PUT", "PATCH"] {
            let change = json!({"max_joins_per_second": "7", "name": method, "private_only": true});
            let answer = desk.tenant(method, "/api/tenants/a", change).await;
            let record = desk.office.store.stored("a").await.unwrap();
            let location = format!("/api/tenants/{}", record.id);
            assert_eq!(
                (answer.status, answer.header("location")),
                (200, Some(location.as_str()))
            );
            let data = &body(&answer)["data"];
            assert_eq!(
                (&data["name"], &data["max_joins_per_second"]),
                (&json!(method), &json!(7))
            );
            assert_eq!((record.name.as_str(), record.private_only), (method, true));
        }
        let answer = desk
            .tenant(
                "POST",
                "/api/tenants",
                json!({"external_id": "a", "name": "n"}),
            )
            .await;
        assert_eq!(
            (answer.status, &body(&answer)["data"]["name"]),
            (200, &json!("n"))
        );
        // A form that says another method.
        let form = "POST /api/tenants/a | content-type: application/x-www-form-urlencoded";
        let answer = desk
            .ask(form, "_method=PUT&tenant[max_events_per_second]=9")
            .await;
        let events = &body(&answer)["data"]["max_events_per_second"];
        assert_eq!((answer.status, events), (200, &json!(9)));
        let answer = desk.ask(form, "_method=delete").await;
        assert_eq!(
            (answer.status, desk.office.store.stored("a").await),
            (204, None)
        );
    });
}

#[test]
fn a_new_tenant_whose_database_is_away_is_unauthorized_and_there() {
    run_local(async {
        let desk = Desk::new();
        let new = json!({"external_id": "new", "jwt_secret": "s",
            "extensions": [{"type": "postgres", "settings": settings_of_database()}]});
        let answer = desk.tenant("POST", "/api/tenants", new).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (401, r#"{"message":"Unauthorized"}"#)
        );
        let shown = body(&desk.ask("GET /api/tenants/new", "").await);
        let extension = &shown["data"]["extensions"][0];
        assert_eq!(extension["type"], "postgres_cdc_rls");
        assert_eq!(extension["settings"]["publication"], "supabase_realtime");
        assert_eq!(shown["data"]["name"], "new");
        let answer = desk.ask("GET /api/ping | host: new.x", "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(desk.ask("DELETE /api/tenants/new", "").await.status, 204);
        let answer = desk.ask("GET /api/ping | host: new.x", "").await;
        assert_eq!(answer.status, 401);
    });
}

#[test]
fn no_body_is_a_500() {
    let values = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e999",
        "1e-20000",
        "{\"keys\":[1e-20000]}",
        "123456789012345678901234567890",
        "\"\"",
        "\"x\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "[]",
        "[null]",
        "[[]]",
        "[{}]",
        "{}",
        "{\"\":1}",
        "{\"keys\":7}",
        "[{\"type\":1,\"settings\":[]}]",
        "[{\"type\":\"postgres\",\"settings\":{\"db_port\":{}}}]",
    ];
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    run_local(async {
        let desk = Desk::new();
        let names = TenantRecord::ATTRIBUTES.iter().chain(&["unknown"]);
        for name in names {
            for value in values.iter().copied().chain([deep.as_str()]) {
                let tenant = format!(r#"{{"tenant":{{"{name}":{value}}}}}"#);
                for request in [
                    "PUT /api/tenants/a",
                    "PUT /api/tenants/fresh",
                    "POST /api/tenants",
                ] {
                    let request = format!("{request} | content-type: application/json");
                    let answer = desk.ask(&request, &tenant).await;
                    let fine = matches!(answer.status, 200 | 400 | 422);
                    assert!(
                        fine,
                        "{request} {tenant}: {} {}",
                        answer.status, answer.body
                    );
                }
            }
        }
        assert_eq!(desk.ask("GET /api/tenants/a", "").await.status, 200);
    });
}
