//! What people and machines may read about the server (spec: http-api 7, 10).

use super::*;

#[test]
fn pages_are_for_people_and_are_not_framed() {
    let stack = Stack::new();
    let check = |request: &str, status: u16, part: &str| {
        let answer = run(stack.ask(request, ""));
        assert_eq!(answer.status, status, "{request}");
        assert!(answer.body.contains(part), "{request}: {}", answer.body);
        let policy = "base-uri 'self'; frame-ancestors 'self';";
        assert_eq!(answer.header("content-security-policy"), Some(policy));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        answer
    };
    check("GET /swaggerui", 200, "POST /api/tenants");
    let operator = "authorization: Basic b3BlcmF0b3I6b3BlcmF0b3I=";
    let page = format!("GET /admin/dashboard | {operator}");
    check(&page, 200, "<td>realtime@127.0.0.1</td>");
    let refused = check("GET /admin/dashboard", 401, "Unauthorized");
    let realm = Some("Basic realm=\"Application\"");
    assert_eq!(refused.header("www-authenticate"), realm);
    // Everybody may read how the API works, in whatever way they ask.
    for request in ["GET /api/openapi", "GET /api/openapi | accept: text/html"] {
        let answer = run(stack.ask(request, ""));
        assert_eq!((answer.status, kind(&answer)), (200, "json"));
        let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(document, openapi::parsed());
    }
}

#[test]
fn every_route_is_described() {
    let document = openapi::parsed();
    let paths = document["paths"].as_object().unwrap();
    let described = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let mut described: Vec<String> = described.collect();
    let known = routes().known;
    let of_api = known.iter().filter(|(method, path)| {
        path.starts_with("/api/") && *path != "/api/openapi" && *method != Method::OPTIONS
    });
    let mut served: Vec<String> = of_api
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}
