//! A registrar with a store that can be looked into.

use super::*;
use crate::auth::ClaimValidators;
use crate::config::Config;
use crate::connection::ConnectionId;
use crate::control::log::Log;
use crate::control::outgoing::{News, Outgoing};
use crate::control::rates::Notice;
use crate::control::store::{Answer, StoreNews};
use crate::control::tenants::Common;
use crate::control::tenants::tests::record;
use crate::logging::Line;
use crate::mail::TopicHasher;
use crate::tenant::TenantId;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::LocalSet;

mod news;
mod seeking;
mod survey;

use seeking::seek;

/// A store that others write to as well.
#[derive(Debug)]
pub(crate) struct SharedStore {
    records: tokio::sync::Mutex<BTreeMap<String, TenantRecord>>,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<StoreNews>>,
    announced: mpsc::UnboundedSender<StoreNews>,
    /// How often somebody asked for one tenant.
    gets: AtomicUsize,
    fails: AtomicBool,
    is_away: AtomicBool,
    /// What another process stores before the next changes are.
    interferes: tokio::sync::Mutex<Vec<TenantRecord>>,
    hangs: AtomicBool,
    is_shared: bool,
}

impl SharedStore {
    /// What others put in.
    pub(crate) async fn insert(&self, record: TenantRecord) {
        let mut records = self.records.lock().await;
        records.insert(record.external_id.clone(), record);
    }

    pub(crate) async fn stored(&self, external_id: &str) -> Option<TenantRecord> {
        self.records.lock().await.get(external_id).cloned()
    }

    async fn answer(&self) -> Result<(), StoreError> {
        // Others get their turn in between, as with a store that is somewhere else.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.is_away.load(Ordering::Relaxed) {
            let error = "nobody answers".to_owned();
            return Err(StoreError::Unreachable { error });
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Interrupted);
        }
        Ok(())
    }
}

impl TenantStore for SharedStore {
    fn get<'a>(&'a self, external_id: &'a str) -> Answer<'a, Option<TenantRecord>> {
        Box::pin(async move {
            self.gets.fetch_add(1, Ordering::Relaxed);
            self.answer().await?;
            Ok(self.stored(external_id).await)
        })
    }

    fn list(&self) -> Answer<'_, Vec<TenantRecord>> {
        Box::pin(async move {
            self.answer().await?;
            Ok(self.records.lock().await.values().cloned().collect())
        })
    }

    fn put(&self, record: TenantRecord) -> Answer<'_, TenantRecord> {
        Box::pin(async move {
            self.answer().await?;
            if record.name == "taken" {
                return Err(StoreError::Taken {
                    external_id: record.external_id,
                });
            }
            if let Some(others) = self.interferes.lock().await.pop() {
                self.insert(others).await;
                return Err(StoreError::Stale {
                    external_id: record.external_id,
                });
            }
            self.insert(record.clone()).await;
            Ok(record)
        })
    }

    fn delete<'a>(&'a self, external_id: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            self.answer().await?;
            Ok(self.records.lock().await.remove(external_id).is_some())
        })
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn news(&self) -> Answer<'_, StoreNews> {
        Box::pin(async move {
            let news = self.news.lock().await.recv().await;
            match news {
                Some(news) => Ok(news),
                None => std::future::pending().await,
            }
        })
    }

    fn announce(&self, news: StoreNews) -> Answer<'_, ()> {
        let _ = self.announced.send(news);
        Box::pin(std::future::ready(Ok(())))
    }

    fn flag<'a>(&'a self, _: &'a str, _: &'a TenantRecord) -> Answer<'a, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }
}

/// A registrar and everything around it.
pub(crate) struct Office {
    pub(crate) registrar: Registrar,
    pub(crate) environment: Rc<Environment>,
    pub(crate) store: Arc<SharedStore>,
    pub(crate) sessions: Sessions,
    /// What others do.
    news: mpsc::UnboundedSender<StoreNews>,
    /// What others hear.
    announced: mpsc::UnboundedReceiver<StoreNews>,
    parcels: mpsc::Receiver<Parcel>,
    notices: mpsc::Receiver<Notice>,
    pub(crate) lines: Box<dyn FnMut() -> Vec<Line>>,
}

impl Registrar {
    /// One that does nothing and knows nobody.
    pub(crate) fn closed() -> Self {
        Self {
            errands: mpsc::unbounded_channel().0,
            room: Arc::new(Semaphore::new(1)),
            seeking: Arc::new(Semaphore::new(1)),
            is_shared: false,
        }
    }
}

impl Office {
    /// With these tenants. To be called within the `LocalSet`.
    pub(crate) fn open(
        records: &[TenantRecord],
        is_shared: bool,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut registry = Registry::new(Common {
            threads: 2,
            validators: Arc::new(ClaimValidators::default()),
            client_presence_calls_max: 5,
            client_presence_window_ms: 30_000,
        });
        for record in records {
            registry.apply(record);
        }
        let (log, lines) = Log::for_test();
        let (outgoing, parcels) = Outgoing::new();
        let (notify, notices) = mpsc::channel(100);
        let get = |name: &str| {
            let variable = variables.iter().find(|(it, _)| *it == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        let environment = Rc::new(Environment {
            config: Arc::new(Config::from_env(get).unwrap().0),
            tenants: registry.watch(),
            outgoing,
            notices: notify,
            hasher: TopicHasher::new(1),
            cell: 1,
            log,
        });
        let (news, heard) = mpsc::unbounded_channel();
        let (announce, announced) = mpsc::unbounded_channel();
        let by_name = records
            .iter()
            .map(|it| (it.external_id.clone(), it.clone()));
        let store = Arc::new(SharedStore {
            records: tokio::sync::Mutex::new(by_name.collect()),
            news: tokio::sync::Mutex::new(heard),
            announced: announce,
            gets: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            interferes: tokio::sync::Mutex::default(),
            hangs: AtomicBool::new(false),
            is_shared,
        });
        let sessions = Sessions::new(Rc::clone(&environment));
        let changes = Hub::start(sessions.clone(), Rc::clone(&environment));
        let means = Means {
            registry,
            sessions: sessions.clone(),
            changes,
            environment: Rc::clone(&environment),
        };
        let keeper: Arc<dyn TenantStore> = Arc::clone(&store) as _;
        Self {
            registrar: Registrar::start(keeper, means),
            environment,
            store,
            sessions,
            news,
            announced,
            parcels,
            notices,
            lines: Box::new(lines),
        }
    }

    pub(crate) fn id(&self, external_id: &str) -> Option<TenantId> {
        let live = self.environment.tenants.borrow();
        live.directory.find(external_id).map(|tenant| tenant.id)
    }

    /// What the shards are told next.
    async fn told(&mut self) -> String {
        loop {
            // There are no shards: nobody waits for them in vain.
            match self.parcels.recv().await.unwrap() {
                Parcel::Mark(heeded) => drop(heeded),
                parcel => return Self::name_of(parcel),
            }
        }
    }

    fn name_of(parcel: Parcel) -> String {
        match parcel {
            Parcel::All(News::Tenant(tenant)) => format!("tenant {}", tenant.external_id),
            Parcel::All(News::TenantGone(_)) => "gone".to_owned(),
            Parcel::All(News::Disconnect(_)) => "disconnect".to_owned(),
            Parcel::Sought(shard, _) => format!("sought {shard}"),
            _ => panic!("nothing else is expected"),
        }
    }

    /// What they were told so far.
    async fn all_told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(parcel) = self.parcels.try_recv() {
            if !matches!(parcel, Parcel::Mark(_)) {
                told.push(Self::name_of(parcel));
            }
        }
        told
    }

    async fn put(&self, external_id: &str, attributes: Value) -> Result<Stored, Failure> {
        let attributes = attributes.as_object().unwrap().clone();
        self.registrar.put(external_id.to_owned(), attributes).await
    }

    /// What was said that somebody should look at.
    fn errors(&mut self) -> Vec<Line> {
        let mut lines = (self.lines)();
        lines.retain(|line| line.level == Level::Error);
        lines
    }

    fn announced(&mut self) -> Option<StoreNews> {
        self.announced.try_recv().ok()
    }
}

pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn changed(external_id: &str) -> StoreNews {
    StoreNews::Changed(external_id.to_owned())
}

#[test]
fn changes_at_once_keep_the_last_one_whole() {
    run(async {
        let office = Office::open(&[record("a")], true, &[]);
        let puts = (0..100).map(|n| {
            let registrar = office.registrar.clone();
            let change = json!({"name": format!("n{n}"), "max_events_per_second": n, "max_joins_per_second": n});
            let change = change.as_object().unwrap().clone();
            spawn_local(async move { registrar.put("a".to_owned(), change).await.unwrap() })
        });
        for put in puts.collect::<Vec<_>>() {
            let record = put.await.unwrap().record;
            let n = record.max_events_per_second;
            assert_eq!(
                (record.name, record.max_joins_per_second),
                (format!("n{n}"), n)
            );
        }
        let stored = office.store.stored("a").await.unwrap();
        assert_eq!(
            (stored.name.as_str(), stored.max_joins_per_second),
            ("n99", 99)
        );
        let live = Arc::clone(&office.environment.tenants.borrow());
        let tenant = live.directory.find("a").unwrap();
        assert_eq!(tenant.limits.events_per_second_max, 99);
    });
}

#[test]
fn tenants_do_not_wait_for_each_other() {
    run(async {
        let office = Office::open(&[record("a"), record("b")], true, &[]);
        office.store.hangs.store(true, Ordering::Relaxed);
        let registrar = office.registrar.clone();
        let nothing = Map::new();
        let hanging = spawn_local(async move { registrar.put("a".to_owned(), nothing).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        office.store.hangs.store(false, Ordering::Relaxed);
        assert!(office.put("b", json!({"name": "c"})).await.is_ok());
        assert!(!hanging.is_finished());
    });
}

#[test]
fn only_what_a_change_makes_invalid_is_ended() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office
            .put("a", json!({"max_joins_per_second": 5}))
            .await
            .unwrap();
        assert_eq!(office.all_told().await, ["tenant a"]);
        assert_eq!(office.announced(), Some(changed("a")));
        let id = office.id("a").unwrap();
        assert_eq!(office.notices.try_recv(), Ok(Notice::LimitsChanged(id)));
        // The secret that it has already.
        office
            .put("a", json!({"jwt_secret": "secret"}))
            .await
            .unwrap();
        assert_eq!(office.all_told().await, ["tenant a"]);
        for change in [
            json!({"jwt_secret": "other"}),
            json!({"suspend": true}),
            json!({"private_only": "1"}),
        ] {
            office.put("a", change).await.unwrap();
            assert_eq!(office.all_told().await, ["tenant a", "disconnect"]);
        }
        assert!(office.notices.try_recv().is_err(), "no limit has changed");
        // What is wrong changes nothing.
        let failure = office
            .put("a", json!({"suspend": "maybe"}))
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::Invalid(_)), "{failure:?}");
        let rename = json!({"external_id": "b"});
        let failure = office.put("a", rename).await.unwrap_err();
        assert!(matches!(failure, Failure::Invalid(_)), "{failure:?}");
        assert_eq!(office.all_told().await, Vec::<String>::new());
    });
}

#[test]
fn a_tenant_that_is_deleted_leaves_nothing() {
    run(async {
        let mut office = Office::open(&[record("a"), record("b")], true, &[]);
        let id = office.id("a").unwrap();
        office.registrar.delete("a".to_owned()).await.unwrap();
        assert_eq!(office.all_told().await, ["gone"]);
        assert_eq!(
            (office.id("a"), office.store.stored("a").await),
            (None, None)
        );
        assert_eq!(office.notices.try_recv(), Ok(Notice::Gone(id)));
        assert_eq!(office.announced(), Some(changed("a")));
        let live = Arc::clone(&office.environment.tenants.borrow());
        assert!(live.requests(id).is_none() && live.database(id).is_none());
        assert!(!office.sessions.is_prepared(id));
        // Once more, and one that nobody could have.
        for name in ["a", "\0"] {
            office.registrar.delete(name.to_owned()).await.unwrap();
        }
        assert_eq!(
            (office.announced(), office.all_told().await),
            (None, vec![])
        );
        assert!(office.id("b").is_some());
    });
}

#[test]
fn who_asked_for_a_change_is_answered_when_the_shards_have_heeded_it() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        let registrar = office.registrar.clone();
        let change = json!({"max_joins_per_second": 3});
        let change = change.as_object().unwrap().clone();
        let put = spawn_local(async move { registrar.put("a".to_owned(), change).await });
        let first = office.parcels.recv().await.unwrap();
        assert_eq!(Office::name_of(first), "tenant a");
        let Some(Parcel::Mark(heeded)) = office.parcels.recv().await else {
            panic!("the shards are asked whether they have heeded it");
        };
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!put.is_finished());
        drop(heeded);
        assert!(put.await.unwrap().is_ok());
    });
}

#[test]
fn what_a_file_says_is_stored_where_it_is_new() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        let registrar = office.registrar.clone();
        let describe = async |name: &str, attributes: Value| {
            let attributes = attributes.as_object().unwrap().clone();
            registrar.describe(name.to_owned(), attributes).await
        };
        let same = json!({"external_id": "a", "jwt_secret": "secret", "suspend": false});
        assert_eq!(describe("a", same).await.unwrap(), None);
        assert!(office.all_told().await.is_empty() && office.announced().is_none());
        let other = json!({"external_id": "a", "max_joins_per_second": 3});
        assert_eq!(describe("a", other).await.unwrap(), Some(false));
        assert_eq!(office.told().await, "tenant a");
        assert_eq!(office.announced(), Some(changed("a")));
        let stored = office.store.stored("a").await.unwrap();
        assert_eq!(stored.jwt_secret.as_deref(), Some("secret"));
        // One that is new needs no database.
        let new = json!({"external_id": "b", "jwt_secret": "s"});
        assert_eq!(describe("b", new).await.unwrap(), Some(true));
        assert_eq!(office.told().await, "tenant b");
        for wrong in [json!({"external_id": "c"}), json!({"suspend": "x"})] {
            let refused = describe("c", wrong).await;
            assert!(matches!(refused, Err(Failure::Invalid(_))), "{refused:?}");
        }
        assert!(office.store.stored("c").await.is_none());
    });
}

#[test]
fn a_change_of_others_meanwhile_is_kept() {
    run(async {
        let office = Office::open(&[record("a")], true, &[]);
        let mut others = record("a");
        others.max_joins_per_second = 7;
        office.store.interferes.lock().await.push(others.clone());
        office.put("a", json!({"name": "b"})).await.unwrap();
        let stored = office.store.stored("a").await.unwrap();
        assert_eq!(
            (stored.max_joins_per_second, stored.name.as_str()),
            (7, "b")
        );
        // It is not tried for ever.
        let many = vec![others; limits::STALE_CHANGES_MAX + 1];
        *office.store.interferes.lock().await = many;
        let failure = office.put("a", json!({"name": "c"})).await.unwrap_err();
        assert!(matches!(failure, Failure::Store), "{failure:?}");
        assert_eq!(office.store.interferes.lock().await.len(), 1);
    });
}

#[test]
fn errands_beyond_the_bound_are_refused() {
    run(async {
        let office = Office::open(&[record("a")], true, &[]);
        office.store.hangs.store(true, Ordering::Relaxed);
        for _ in 0..limits::REGISTRAR_ERRANDS_MAX {
            let registrar = office.registrar.clone();
            spawn_local(async move { registrar.list().await });
        }
        while office.registrar.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let failure = office.put("a", json!({})).await.unwrap_err();
        assert!(matches!(failure, Failure::Busy), "{failure:?}");
        // Those who seek have a room of their own.
        assert!(office.registrar.seek_for(0, seek("b")).is_none());
    });
}

#[test]
fn a_store_that_fails_leaves_the_tenants_as_they_are() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        let failure = office.put("a", json!({"name": "taken"})).await.unwrap_err();
        let Failure::Invalid(errors) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(
            Value::Object(errors),
            json!({"external_id": ["has already been taken"]})
        );
        assert!((office.lines)().is_empty());
        office.store.fails.store(true, Ordering::Relaxed);
        let failure = office.put("a", json!({"suspend": true})).await.unwrap_err();
        assert!(matches!(failure, Failure::Store), "{failure:?}");
        let failure = office.registrar.delete("a".to_owned()).await.unwrap_err();
        assert!(matches!(failure, Failure::Store), "{failure:?}");
        assert!(office.registrar.list().await.is_err());
        assert!(office.id("a").is_some() && office.all_told().await.is_empty());
        let lines: Vec<_> = (office.lines)()
            .iter()
            .map(|line| line.message.to_string())
            .collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        // Those that run are asked without the store.
        let health = office.registrar.health("a".to_owned()).await.unwrap();
        assert!(health.unwrap().is_healthy);
        assert!(office.registrar.shut_down("a".to_owned()).await.unwrap());
    });
}

#[test]
fn a_new_tenant_is_stored_although_its_database_is_not_ready() {
    run(async {
        let mut office = Office::open(&[], true, &[]);
        let settings = json!({"region": "r", "db_host": "127.0.0.1", "db_port": "1", "db_name": "n", "db_user": "u",
            "db_password": "p", "ssl_enforced": false});
        let extension = |kind: &str| json!({"type": kind, "settings": settings});
        let new = |extensions: Value| json!({"jwt_secret": "s", "name": "ignored", "extensions": extensions});
        let failure = office.put("a", new(json!([extension("postgres")]))).await;
        assert!(matches!(failure, Err(Failure::NotReady)), "{failure:?}");
        let stored = office.store.stored("a").await.unwrap();
        assert_eq!(
            (stored.name.as_str(), stored.external_id.as_str()),
            ("a", "a")
        );
        assert_eq!(office.all_told().await, ["tenant a"]);
        let failure = office.put("b", new(json!([extension("unknown")]))).await;
        assert!(matches!(failure, Err(Failure::NotReady)), "{failure:?}");
        let lines = (office.lines)();
        let codes: Vec<_> = lines
            .iter()
            .filter_map(|line| Some(line.code?.as_str()))
            .collect();
        assert_eq!(
            codes,
            ["UnableToConnectToTenantDatabase", "MigrationsFailedToRun"]
        );
        assert!(!lines.iter().any(|line| line.message.contains("\"p\"")));
        // It is not well, and is looked at again in the background.
        for _ in 0..2 {
            let health = office
                .registrar
                .health("a".to_owned())
                .await
                .unwrap()
                .unwrap();
            assert!(!health.is_healthy && !health.is_connected, "{health:?}");
        }
        // Entries that lack a type or settings are passed over; without any there is no tenant.
        for extensions in [
            json!([]),
            json!([{"type": "postgres"}]),
            json!([{"settings": {}}]),
        ] {
            let failure = office.put("c", new(extensions)).await.unwrap_err();
            let Failure::Invalid(errors) = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(
                Value::Object(errors),
                json!({"extensions": ["can't be blank"]})
            );
        }
        assert_eq!(office.store.stored("c").await, None);
        let both = json!([extension("first"), 1, {"type": "x"}, extension("postgres")]);
        assert!(office.put("d", new(both)).await.is_err());
        let stored = office.store.stored("d").await.unwrap();
        let kinds: Vec<_> = stored
            .extensions
            .iter()
            .map(|it| it.kind.as_str())
            .collect();
        assert_eq!(kinds, ["postgres_cdc_rls", "first"]);
    });
}

#[test]
fn limits_that_say_nothing_are_the_defaults_of_a_new_tenant_alone() {
    run(async {
        let office = Office::open(&[], true, &[("TENANT_MAX_EVENTS_PER_SECOND", "7")]);
        let settings = json!({"region": "r", "db_host": "127.0.0.1", "db_port": "1", "db_name": "n", "db_user": "u",
            "db_password": "p", "ssl_enforced": false});
        let extensions = json!([{"type": "postgres", "settings": settings}]);
        let limits = |limit: Value| {
            json!({"external_id": "a", "jwt_secret": "s", "extensions": extensions, "max_events_per_second": limit,
                "max_concurrent_users": limit, "max_joins_per_second": limit, "max_channels_per_client": limit,
                "max_bytes_per_second": limit})
        };
        for (name, limit) in [("a", Value::Null), ("b", json!(" "))] {
            let mut attributes = limits(limit).as_object().unwrap().clone();
            attributes.insert("external_id".to_owned(), json!(name));
            // Its database is not there; the tenant is.
            let failure = office.registrar.post(attributes).await;
            assert!(matches!(failure, Err(Failure::NotReady)), "{failure:?}");
            let stored = office.store.stored(name).await.unwrap();
            assert_eq!(
                (stored.max_events_per_second, stored.max_concurrent_users),
                (7, 200)
            );
        }
        let failure = office.put("a", limits(Value::Null)).await.unwrap_err();
        let Failure::Invalid(errors) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(errors.len(), 5, "{errors:?}");
    });
}

#[test]
fn post_wants_the_description_of_a_new_tenant() {
    run(async {
        let office = Office::open(&[record("a")], true, &[]);
        let post = async |attributes: Value| {
            let attributes = attributes.as_object().unwrap().clone();
            office.registrar.post(attributes).await
        };
        let errors = |outcome: Result<Stored, Failure>| match outcome {
            Err(Failure::Invalid(errors)) => Value::Object(errors),
            other => panic!("{other:?}"),
        };
        let blank = json!({"external_id": ["can't be blank"]});
        assert_eq!(errors(post(json!({})).await), blank);
        assert_eq!(errors(post(json!({"external_id": " "})).await), blank);
        let wrong = errors(post(json!({"external_id": 5, "suspend": "x"})).await);
        assert_eq!(
            wrong,
            json!({"external_id": ["is invalid"], "suspend": ["is invalid"]})
        );
        let keyless = json!({"jwt_secret": ["either jwt_secret or jwt_jwks must be provided"]});
        assert_eq!(errors(post(json!({"external_id": "b"})).await), keyless);
        // A tenant that is there keeps its key, and its name may change.
        let stored = post(json!({"external_id": "a", "name": "c"}))
            .await
            .unwrap();
        assert!(!stored.is_new && stored.record.name == "c");
        let partial = json!({"external_id": "a", "extensions": [{"settings": {}}]});
        let expected = json!({"extensions": [{"type": ["can't be blank"]}]});
        assert_eq!(errors(post(partial).await), expected);
    });
}

#[test]
fn a_panic_costs_one_errand() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        let lost = office
            .registrar
            .run(|_| async { if true { panic!("a defect") } else { Ok(()) } })
            .await;
        assert!(matches!(lost, Err(Failure::Lost)), "{lost:?}");
        assert!(
            (office.lines)()
                .iter()
                .any(|line| line.message.contains("a defect"))
        );
        assert!(
            office
                .registrar
                .get("a".to_owned())
                .await
                .unwrap()
                .is_some()
        );
        assert_eq!(
            office.registrar.room.available_permits(),
            limits::REGISTRAR_ERRANDS_MAX
        );
    });
}
