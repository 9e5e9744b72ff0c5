//! All tenants at a glance.

use super::*;
use crate::control::registrar::Database;
use crate::control::session::Stage;
use crate::control::store::{ExtensionRecord, Sealed};
use crate::error::ErrorCode;

/// A tenant whose database cannot be reached.
fn unreachable(external_id: &str) -> TenantRecord {
    let settings = json!({
        "region": "r", "db_host": "127.0.0.1", "db_port": "1", "db_name": "n", "db_user": "u", "db_password": "p",
        "ssl_enforced": false,
    });
    let mut record = record(external_id);
    record.extensions.push(ExtensionRecord {
        kind: TenantRecord::POSTGRES_CDC.to_owned(),
        settings: settings.as_object().unwrap().clone(),
        inserted_at: 0,
        updated_at: 0,
        sealed: Sealed::default(),
    });
    record
}

fn names(survey: &Survey) -> Vec<&str> {
    let tenants = survey.tenants.iter();
    tenants.map(|tenant| &*tenant.external_id).collect()
}

#[test]
fn those_in_trouble_come_first() {
    run(async {
        let records = [record("a"), record("b"), record("c"), unreachable("d")];
        let office = Office::open(&records, false, &[]);
        let survey = office.registrar.survey().await.unwrap();
        assert_eq!(
            (names(&survey), survey.left_out),
            (vec!["a", "b", "c", "d"], 0)
        );
        assert_eq!(survey.tenants[0].database, Database::NotConfigured);
        assert_eq!(
            survey.tenants[3].database,
            Database::Configured(Stage::Idle)
        );
        let live = Arc::clone(&office.environment.tenants.borrow());
        let users = |name: &str| Arc::clone(&live.directory.find(name).unwrap().usage);
        assert!(
            users("b").try_add_user(9) && users("c").try_add_user(9) && users("c").try_add_user(9)
        );
        assert!(office.sessions.open(office.id("d").unwrap()).await.is_err());
        let survey = office.registrar.survey().await.unwrap();
        assert_eq!(names(&survey), ["d", "c", "b", "a"]);
        let code = ErrorCode::UnableToConnectToTenantDatabase;
        assert_eq!(
            survey.tenants[0].database,
            Database::Configured(Stage::Failing(code))
        );
        assert_eq!(
            (survey.tenants[1].users, survey.tenants[1].users_max),
            (2, 200)
        );
    });
}

#[test]
fn tenants_that_are_too_many_are_counted() {
    run(async {
        let most = limits::FIGURES_TENANTS_MAX;
        let records: Vec<_> = (0..most + 3).map(|n| record(&format!("t{n:04}"))).collect();
        let office = Office::open(&records, false, &[]);
        let survey = office.registrar.survey().await.unwrap();
        assert_eq!((survey.tenants.len(), survey.left_out), (most, 3));
        assert_eq!(&*survey.tenants[0].external_id, "t0000");
    });
}
