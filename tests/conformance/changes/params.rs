//! The vectors of what a join's entry means, seen by what the client is told.
//!
//! The table they ask for has none of the columns that they name, so that the text about the first missing one shows how the
//! server understood all of the entry.

use serde_json::json;

use super::texts::Params;
use super::vector;
use super::world::Place;
use crate::cases::V2;
use crate::token;

/// Plays all of them.
pub fn play(place: &Place<'_>) {
    place.sql().run(
        "create table public.t (zz int primary key);
         grant select on public.t to anon;
         create publication supabase_realtime for all tables",
    );
    let token = token::of_role("anon", 3600);
    let mut ears = place.ears(V2);
    let vectors = vector::values("params");
    assert!(vectors.len() > 60, "{} vectors", vectors.len());
    for vector in &vectors {
        let topic = format!(
            "realtime:{}",
            vector["name"].as_str().expect("it has a name")
        );
        let entries = [vector["params"].clone()];
        let payload = json!({"config": {"postgres_changes": entries}, "access_token": token});
        ears.send_join(&topic, &payload);
        ears.joined(&topic, &entries);
        let later = &vector["later"];
        if let Some(text) = later["error"].as_str() {
            ears.not_subscribed(&topic, text);
            continue;
        }
        let params = Params::of_vector(&later["ok"]);
        let missing = |what: &str, name: &str| {
            params.exception("P0001", &format!("invalid column for {what} {name}"))
        };
        if let Some((column, ..)) = params.filters.first() {
            ears.not_subscribed(&topic, &missing("filter", column));
        } else if let Some(name) = params.select.iter().flatten().next() {
            ears.not_subscribed(&topic, &missing("select", name));
        } else if params.schema.is_empty() {
            ears.not_subscribed(&topic, &params.not_enabled());
        } else {
            ears.subscribed(&topic);
        }
    }
}
