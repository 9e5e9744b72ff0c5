//! What the product allocates for a join and for a broadcast, counted in the calls that the runtime makes.
//!
//! In: the shard of `bed.rs`. Out: a table, printed behind the measurements. Always holds: what the simulated kernel allocates is not
//! counted; nothing is counted while nobody asks, so the measurements pay one load per allocation. A broadcast allocates as much for
//! a crowd as for a few: when it does not, the run fails.
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use super::bed::{Bed, PLAIN, PRESENCE, SELF, broadcast_payload, join, message, token, upgrade};
use super::is_measured;
use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The allocator of the product, which writes sizes down while it is asked to.
struct Counting(MiMalloc);

#[global_allocator]
static ALLOCATOR: Counting = Counting(MiMalloc);

/// Allocations of one count at most: more are counted and not told apart.
const SIZES_MAX: usize = 65_536;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    /// The product runs: what is allocated now is its own.
    static IS_IN_A_CALL: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static FREED: Cell<usize> = const { Cell::new(0) };
    /// Room is made before it counts, so that writing down allocates nothing.
    static SIZES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn note(bytes: usize) {
    if !IS_COUNTING.get() || !IS_IN_A_CALL.get() {
        return;
    }
    COUNT.set(COUNT.get() + 1);
    SIZES.with_borrow_mut(|sizes| {
        if sizes.len() < sizes.capacity() {
            sizes.push(bytes);
        }
    });
}

fn note_freed(bytes: usize) {
    if IS_COUNTING.get() && IS_IN_A_CALL.get() {
        FREED.set(FREED.get() + bytes);
    }
}

// SAFETY: every call goes to the allocator inside as it came, and its answer comes back as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note_freed(layout.size());
        // SAFETY: the caller keeps the promises of `dealloc`, and the memory is the inner allocator's.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note_freed(layout.size());
        note(size);
        // SAFETY: as for `dealloc`.
        unsafe { self.0.realloc(memory, layout, size) }
    }
}

/// Runs a call of the product.
pub(crate) fn counted<R>(run: impl FnOnce() -> R) -> R {
    IS_IN_A_CALL.set(true);
    let result = run();
    IS_IN_A_CALL.set(false);
    result
}

/// What the product allocates while the bed does this.
fn of(bed: &mut Bed, what: impl FnOnce(&mut Bed)) -> Sizes {
    SIZES.with_borrow_mut(|sizes| {
        sizes.clear();
        sizes.reserve(SIZES_MAX);
    });
    COUNT.set(0);
    FREED.set(0);
    IS_COUNTING.set(true);
    what(bed);
    bed.run();
    IS_COUNTING.set(false);
    bed.drain();
    let sizes = SIZES.with_borrow(Vec::clone);
    Sizes {
        count: COUNT.get(),
        freed: FREED.get(),
        sizes,
    }
}

struct Sizes {
    count: usize,
    /// Bytes that were given back meanwhile.
    freed: usize,
    sizes: Vec<usize>,
}

impl Sizes {
    fn bytes(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// `24 80x2 512`: ascending, and how often.
    fn list(&self) -> String {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for size in &self.sizes {
            *counts.entry(*size).or_default() += 1;
        }
        let one = |(size, count): (usize, usize)| match count {
            1 => size.to_string(),
            _ => format!("{size}x{count}"),
        };
        counts.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// Prints the table.
pub(crate) fn print(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "allocations in calls of the product: how many, bytes, bytes that stay; each by its size"
    )?;
    joins(out)?;
    broadcasts(out)
}

fn line(out: &mut impl Write, what: &str, sizes: &Sizes) -> io::Result<()> {
    let (count, bytes) = (sizes.count, sizes.bytes());
    let stays = i64::try_from(bytes).unwrap_or(i64::MAX) - i64::try_from(sizes.freed).unwrap_or(0);
    writeln!(out, "  {what}: {count}, {bytes}, {stays}; {}", sizes.list())
}

fn joins(out: &mut impl Write) -> io::Result<()> {
    let mut bed = Bed::new(1);
    let topic = bed.topic_of(0);
    // Whatever grows with the first socket of a shard is there.
    bed.crowd(0, 2, 10, &topic, PLAIN);
    let known = token(1_800_000_000);
    for (what, token) in [
        ("upgrade, the token seen for the first time", known.clone()),
        ("upgrade, the token known", known),
    ] {
        let client = bed.open(0);
        let sizes = of(&mut bed, |bed| bed.write(client, &upgrade(2, &token)));
        line(out, what, &sizes)?;
    }
    for (what, name, config) in [
        ("join of a topic that others are on", topic.clone(), PLAIN),
        (
            "join of a topic of one's own",
            format!("{topic}-own"),
            PLAIN,
        ),
        (
            "join with presence, nobody present",
            topic.clone(),
            PRESENCE,
        ),
    ] {
        let client = bed.connect(0, 2);
        bed.run();
        let sizes = of(&mut bed, |bed| bed.write(client, &join(2, &name, config)));
        line(out, what, &sizes)?;
    }
    let client = bed.crowd(0, 2, 1, &topic, PRESENCE)[0];
    let track = r#"{"type":"presence","event":"track","payload":{"user":"user-1"}}"#;
    let sizes = of(&mut bed, |bed| {
        bed.write(client, &message(2, &topic, "presence", track));
    });
    line(out, "track, 12 members", &sizes)
}

fn broadcasts(out: &mut impl Write) -> io::Result<()> {
    let mut counts = Vec::new();
    for members in [10, if is_measured() { 10_000 } else { 100 }] {
        let mut bed = Bed::new(1);
        let topic = bed.topic_of(0);
        let clients = bed.crowd(0, 2, members, &topic, SELF);
        let bytes = message(2, &topic, "broadcast", &broadcast_payload(60));
        // The first one makes what all others use again.
        of(&mut bed, |bed| bed.write(clients[0], &bytes));
        let sizes = of(&mut bed, |bed| bed.write(clients[0], &bytes));
        line(out, &format!("broadcast to {members} members"), &sizes)?;
        counts.push(sizes.count);
    }
    if counts[0] != counts[1] {
        let what = format!("a broadcast allocates per member: {counts:?}");
        return Err(io::Error::other(what));
    }
    Ok(())
}
