//! The contract that both stores keep, run on the embedded one.

use super::*;
use std::path::Path;

#[path = "../../../tests/database/control_database/contract.rs"]
mod contract;

fn new(external_id: &str) -> TenantRecord {
    TenantRecord::new(external_id, &TEST_DEFAULTS, 1_700_000_000)
}

fn check(name: &str, cipher: Cipher) {
    let folder =
        std::env::temp_dir().join(format!("realtime-contract-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let run = |folder: &Path| {
        let store = EmbeddedStore::open(folder, cipher).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(contract::keeps_the_contract(&store, new));
        assert!(!store.is_shared());
    };
    run(&folder);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    check("file", Cipher::new(None, None, false));
    check(
        "legacy",
        Cipher::new(Some(b"supabaserealtime"), None, false),
    );
    check("gcm", Cipher::new(None, Some(&[7; 32]), true));
}
