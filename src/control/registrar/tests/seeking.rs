//! Tenants that are not known, and those who ask for them.

use super::*;

#[test]
fn who_seeks_cannot_fill_the_log() {
    run(async {
        let mut office = Office::open(&[], true, &[]);
        office.store.is_away.store(true, Ordering::Relaxed);
        office.registrar.seek("b".to_owned()).await;
        assert!((office.lines)().is_empty(), "the store says it itself");
        office.store.is_away.store(false, Ordering::Relaxed);
        office.store.fails.store(true, Ordering::Relaxed);
        office.registrar.seek("b".to_owned()).await;
        office.store.hangs.store(true, Ordering::Relaxed);
        office.registrar.seek("c".to_owned()).await;
        let lines = (office.lines)();
        // The gate bounds lines that have a code.
        assert!(lines.len() == 2 && lines.iter().all(|line| line.code.is_some()));
        assert_eq!(lines[0].tenant.as_deref(), Some("b"));
    });
}

#[test]
fn many_who_seek_the_same_share_one_question() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office.store.insert(record("b")).await;
        let seek = |name: &'static str| {
            let registrar = office.registrar.clone();
            spawn_local(async move { registrar.seek(name.to_owned()).await })
        };
        for seek in (0..100).map(|_| seek("b")).collect::<Vec<_>>() {
            seek.await.unwrap();
        }
        assert!(office.id("b").is_some());
        assert_eq!(office.store.gets.load(Ordering::Relaxed), 1);
        // Those who are known are not sought, and one that is missing is sought again.
        for name in ["a", "b", "\0", ""] {
            seek(name).await.unwrap();
        }
        assert_eq!(office.store.gets.load(Ordering::Relaxed), 1);
        for _ in 0..2 {
            seek("missing").await.unwrap();
        }
        assert_eq!(office.store.gets.load(Ordering::Relaxed), 3);
        assert_eq!(office.all_told().await, ["tenant b"]);
    });
}

#[test]
fn a_shard_hears_of_the_tenant_before_the_answer() {
    run(async {
        let mut office = Office::open(&[], true, &[]);
        office.store.insert(record("b")).await;
        let seek = |external_id: &str| Seek {
            external_id: external_id.to_owned(),
            connection: ConnectionId::new(1, 1),
        };
        assert!(office.registrar.seek_for(2, seek("b")).is_none());
        assert_eq!(
            (office.told().await, office.told().await),
            ("tenant b".into(), "sought 2".into())
        );
        assert!(office.registrar.seek_for(1, seek("missing")).is_none());
        assert_eq!(office.told().await, "sought 1");
        // A store that hangs, and one that fails, is no answer.
        office.store.hangs.store(true, Ordering::Relaxed);
        assert!(office.registrar.seek_for(3, seek("slow")).is_none());
        assert_eq!(office.told().await, "sought 3");
        let text = |line: &Line| line.message.contains("did not answer in time");
        assert!((office.lines)().iter().any(text));
    });
}

#[test]
fn seeks_beyond_the_bounds_are_answered_at_once() {
    run(async {
        let office = Office::open(&[], true, &[]);
        office.store.hangs.store(true, Ordering::Relaxed);
        for n in 0..limits::SEEKS_MAX {
            let registrar = office.registrar.clone();
            spawn_local(async move { registrar.seek(format!("t{n}")).await });
        }
        tokio::task::yield_now().await;
        let begun = tokio::time::Instant::now();
        while office.store.gets.load(Ordering::Relaxed) < limits::SEEKS_MAX {
            tokio::task::yield_now().await;
        }
        office.registrar.seek("one more".to_owned()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(office.store.gets.load(Ordering::Relaxed), limits::SEEKS_MAX);
        // They end by themselves, and then there is room.
        tokio::time::sleep(limits::SEEK_TIMEOUT).await;
        office.store.hangs.store(false, Ordering::Relaxed);
        office.registrar.seek("one more".to_owned()).await;
        assert_eq!(
            office.store.gets.load(Ordering::Relaxed),
            limits::SEEKS_MAX + 1
        );
        // Without others there is nobody to find.
        let alone = Office::open(&[], false, &[]);
        alone.registrar.seek("b".to_owned()).await;
        assert_eq!(alone.store.gets.load(Ordering::Relaxed), 0);
    });
}

pub(super) fn seek(external_id: &str) -> Seek {
    Seek {
        external_id: external_id.to_owned(),
        connection: ConnectionId::new(1, 1),
    }
}

#[test]
fn who_seeks_keeps_no_operator_away() {
    run(async {
        let office = Office::open(&[record("a")], true, &[]);
        office.store.hangs.store(true, Ordering::Relaxed);
        for _ in 0..limits::REGISTRAR_SEEKS_MAX {
            assert!(office.registrar.seek_for(0, seek("b")).is_none());
        }
        assert!(office.registrar.seek_for(0, seek("b")).is_some());
        let begun = tokio::time::Instant::now();
        assert!(office.registrar.shut_down("a".to_owned()).await.unwrap());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    });
}

#[test]
fn names_that_are_sought_leave_connections_to_others() {
    run(async {
        let variables = [("DB_HOST", "db"), ("DB_POOL_SIZE", "5")];
        let office = Office::open(&[record("a")], true, &variables);
        office.store.hangs.store(true, Ordering::Relaxed);
        for n in 0..20 {
            let registrar = office.registrar.clone();
            spawn_local(async move { registrar.seek(format!("t{n}")).await });
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(office.store.gets.load(Ordering::Relaxed), 3);
        // When they are over, the next ones have their turn.
        tokio::time::sleep(limits::SEEK_TIMEOUT).await;
        office.store.hangs.store(false, Ordering::Relaxed);
        office.store.insert(record("b")).await;
        office.registrar.seek("b".to_owned()).await;
        assert!(office.id("b").is_some());
    });
}
