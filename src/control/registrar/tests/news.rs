//! What others do to a store that is shared.

use super::*;

#[test]
fn a_store_that_is_away_loses_no_change() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office.store.is_away.store(true, Ordering::Relaxed);
        for _ in 0..10 {
            office.news.send(changed("a")).unwrap();
        }
        tokio::time::sleep(limits::TASK_RESTART_PAUSE_MAX).await;
        let gets = office.store.gets.load(Ordering::Relaxed);
        assert!((3..30).contains(&gets), "{gets}: it is asked with pauses");
        office.store.records.lock().await.remove("a");
        office.store.is_away.store(false, Ordering::Relaxed);
        assert_eq!(office.told().await, "gone");
        assert!(office.errors().is_empty(), "the store says it itself");
        // Nothing is left that asks.
        let gets = office.store.gets.load(Ordering::Relaxed);
        tokio::time::sleep(10 * limits::TASK_RESTART_PAUSE_MAX).await;
        assert_eq!(office.store.gets.load(Ordering::Relaxed), gets);
    });
}

#[test]
fn a_reload_by_others_is_not_lost_when_the_store_does_not_answer() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office.store.is_away.store(true, Ordering::Relaxed);
        let reload = || StoreNews::Reload("a".to_owned());
        for news in [changed("a"), reload(), changed("a"), reload()] {
            office.news.send(news).unwrap();
        }
        tokio::time::sleep(limits::TASK_RESTART_PAUSE_MAX).await;
        assert!(office.all_told().await.is_empty());
        office.store.is_away.store(false, Ordering::Relaxed);
        assert_eq!(office.told().await, "tenant a");
        assert_eq!(office.told().await, "disconnect");
        // Once, however often it was asked for meanwhile.
        tokio::time::sleep(limits::TASK_RESTART_PAUSE_MAX).await;
        assert!(office.all_told().await.is_empty());
        // And the next one is another.
        office.news.send(reload()).unwrap();
        assert_eq!(office.told().await, "tenant a");
        assert_eq!(office.told().await, "disconnect");
        let said = |line: &Line| {
            line.level == Level::Warning
                && &*line.message == "Disconnecting all sockets for tenant a"
                && line.tenant.as_deref() == Some("a")
        };
        assert_eq!((office.lines)().iter().filter(|line| said(line)).count(), 2);
    });
}

#[test]
fn a_change_that_comes_while_a_reload_is_made_does_not_repeat_it() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office.news.send(StoreNews::Reload("a".to_owned())).unwrap();
        while office.store.gets.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        office.news.send(changed("a")).unwrap();
        tokio::time::sleep(limits::TASK_RESTART_PAUSE_MAX).await;
        assert_eq!(office.all_told().await, ["tenant a", "disconnect"]);
        assert_eq!(office.store.gets.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn news_of_one_tenant_do_not_wait_for_another() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        office.store.hangs.store(true, Ordering::Relaxed);
        office.news.send(changed("a")).unwrap();
        while office.store.gets.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        office.store.hangs.store(false, Ordering::Relaxed);
        office.store.insert(record("b")).await;
        office.news.send(changed("b")).unwrap();
        assert_eq!(office.told().await, "tenant b");
    });
}

#[test]
fn what_others_do_has_the_same_effects_here() {
    run(async {
        let mut office = Office::open(&[record("a")], true, &[]);
        let mut other = office.store.stored("a").await.unwrap();
        other.private_only = true;
        office.store.insert(other).await;
        office.news.send(changed("a")).unwrap();
        assert_eq!(
            (office.told().await, office.told().await),
            ("tenant a".into(), "disconnect".into())
        );
        // It is known already.
        office.news.send(changed("a")).unwrap();
        office.news.send(StoreNews::Reload("a".to_owned())).unwrap();
        assert_eq!(
            (office.told().await, office.told().await),
            ("tenant a".into(), "disconnect".into())
        );
        office
            .news
            .send(StoreNews::Shutdown("a".to_owned()))
            .unwrap();
        office.store.insert(record("b")).await;
        office.news.send(changed("b")).unwrap();
        assert_eq!(office.told().await, "tenant b");
        office.store.records.lock().await.remove("a");
        office.news.send(changed("a")).unwrap();
        assert_eq!(office.told().await, "gone");
        assert_eq!(
            office.announced(),
            None,
            "what others did is not said again"
        );
        // A store that does not answer takes nothing away.
        office.store.fails.store(true, Ordering::Relaxed);
        office.news.send(changed("b")).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(office.id("b").is_some() && office.parcels.is_empty());
        assert_eq!(office.errors().len(), 1, "it is said once");
        // And what could not be read is read when it answers.
        office.store.records.lock().await.remove("b");
        office.store.fails.store(false, Ordering::Relaxed);
        assert_eq!(office.told().await, "gone");
    });
}
