//! Both caches do the same; and what Redis does when it is down, slow or full.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use redis_server::Redis;
use server::cache::{Cache, MemoryCache, RedisCache};
use server::config::CacheSettings;
use toxic::{Mood, Toxic};

#[path = "../../../tests/support/child.rs"]
mod child;
#[path = "../../../tests/support/redis.rs"]
mod redis_server;
#[path = "../../../bin/quiver/tests/e2e/toxic.rs"]
mod toxic;

const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn redis_at(url: &str) -> (Arc<Cache>, watch::Sender<bool>) {
    let cache = Arc::new(Cache::Redis(Box::new(RedisCache::new(CacheSettings::of_url(url).unwrap()))));
    let (stop, stopped) = watch::channel(false);
    let running = cache.clone();
    tokio::spawn(async move { running.run(stopped).await });
    (cache, stop)
}

/// What any cache promises.
async fn behaves(cache: &Cache) {
    assert_eq!(cache.get("nothing").await, None);
    cache.put("a".into(), 60_000, "1".into());
    cache.put("b".into(), 60_000, "2".into());
    cache.put("a".into(), 60_000, "3".into());
    assert_eq!((cache.get("a").await.as_deref(), cache.get("b").await.as_deref()), (Some("3"), Some("2")));
    cache.remove("b".into());
    assert_eq!(cache.get("b").await, None);
    cache.put("short".into(), 30, "x".into());
    cache.put("b".into(), 60_000, "again".into());
    until("its time is over", async || cache.get("short").await.is_none()).await;
    until("all is written", async || cache.stats().waiting == 0).await;
    assert_eq!((cache.get("a").await.as_deref(), cache.get("b").await.as_deref()), (Some("3"), Some("again")));
    let stats = cache.stats();
    assert!(stats.up && stats.hits >= 4 && stats.misses >= 3 && stats.dropped == 0 && stats.failed == 0, "{stats:?}");
}

#[tokio::test]
async fn both_behave_alike() {
    behaves(&Cache::Memory(MemoryCache::default())).await;
    let redis = Redis::start();
    let (cache, _stop) = redis_at(&redis.url());
    behaves(&cache).await;
    assert_eq!(redis.ask(&["GET", "a"]).as_deref(), Some("3"));
    let left: i64 = redis.ask(&["PTTL", "a"]).unwrap().parse().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
}

#[test]
fn a_full_memory_lets_the_oldest_go() {
    let memory = MemoryCache::with_room(1_000);
    for n in 0..10_000 {
        memory.put(format!("k{}", n % 100), 60_000, "x".repeat(50));
    }
    let stats = memory.stats();
    assert!(stats.bytes <= 1_000 && stats.dropped > 0, "{stats:?}");
    assert!(memory.get("k99").is_some() && memory.get("k0").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_down_slow_or_full_costs_nobody_time_and_is_never_wrong() {
    let mut redis = Redis::start();
    let toxic = Toxic::before(redis.port);
    let (cache, _stop) = redis_at(&redis.url_by(toxic.port()));
    cache.put("a".into(), 60_000, "1".into());
    until("it is written", async || redis.ask(&["GET", "a"]).is_some()).await;

    // Silent: a miss in a quarter of a second, then at once.
    toxic.set(Mood::HalfOpen);
    assert_eq!(cache.get("a").await, None);
    let begin = Instant::now();
    for _ in 0..100 {
        cache.get("a").await;
    }
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    assert!(!cache.stats().up && cache.stats().failed > 0);
    cache.put("a".into(), 60_000, "2".into());
    assert_eq!(cache.get("a").await.as_deref(), Some("2"), "what waits is newer than what is there");
    toxic.set(Mood::Cut);
    toxic.set(Mood::Good);
    until("it comes back", async || redis.ask(&["GET", "a"]).as_deref() == Some("2")).await;

    redis.kill();
    for n in 0..1_000 {
        cache.put(format!("k{n}"), 60_000, n.to_string());
    }
    redis.resume();
    until("all come", async || cache.stats().waiting == 0).await;
    assert_eq!(redis.ask(&["DBSIZE"]).as_deref(), Some("1000"), "it forgot the one from before");
    assert_eq!(cache.get("a").await, None);

    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    cache.put("k1".into(), 60_000, "new".into());
    until("it refuses", async || cache.stats().refused > 0).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    cache.put("k2".into(), 60_000, "new".into());
    until("it takes again", async || cache.get("k2").await.as_deref() == Some("new")).await;
    assert!(cache.stats().up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_holds_the_others_up() {
    let redis = Redis::start();
    let toxic = Toxic::before(redis.port);
    let (cache, _stop) = redis_at(&redis.url_by(toxic.port()));
    for key in ["big", "huge"] {
        cache.put(key.into(), 600_000, "old".into());
    }
    until("they are written", async || cache.stats().waiting == 0).await;

    // 16 KiB in each tenth of a second: 4 MiB take far longer than any call may.
    toxic.set(Mood::Late(Duration::from_millis(100)));
    cache.put("big".into(), 600_000, "x".repeat(4 << 20));
    cache.put("small".into(), 600_000, "1".into());
    until("the small one is there", async || redis.ask(&["GET", "small"]).is_some()).await;
    until("the old one is not", async || redis.ask(&["GET", "big"]).is_none()).await;
    assert_eq!(cache.stats().dropped, 1);
    toxic.set(Mood::Good);
    cache.put("big".into(), 600_000, "y".repeat(4 << 20));
    until("a fast network takes it", async || redis.ask(&["STRLEN", "big"]).as_deref() == Some("4194304")).await;

    cache.put("huge".into(), 600_000, "x".repeat(17 << 20));
    assert_eq!(cache.get("huge").await, None, "what it replaces is not true any more");
    until("it is taken out", async || redis.ask(&["EXISTS", "huge"]).as_deref() == Some("0")).await;
    assert_eq!(cache.stats().dropped, 2);
}
