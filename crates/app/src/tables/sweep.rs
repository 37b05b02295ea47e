//! What goes through whole tables in the background: migration to this release's schema version, the form for an
//! older release, records whose time is over, records that cannot be read.
//!
//! Only the current generation sweeps. It reads a few hundred records in a transaction of their own, and writes only
//! those that need it, in another one; then it rests four times as long as that took, so that a sweep of a table of
//! any size takes a fifth of one processor at most, and nobody waits longer for it than for one such step.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relmgr_abi::tables::{ASIDE, FfiTransaction, Needed, Report};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::range::Limits;
use super::record::{self, Found, Parts, Record};
use super::transaction::set_aside;
use super::{Inner, Opened, TableError, Tables};

/// So many records are read, and perhaps written, in one transaction: about a millisecond.
const STEP: usize = 512;

/// How often a look is taken at who has the tables open. It costs two atomic loads a table.
const GLANCE: Duration = Duration::from_millis(250);

/// A table with records that have a time is gone through again after so long, or a hundred times as long as it took.
const EXPIRY: Duration = Duration::from_secs(1);

/// How much a status may be behind.
const TELL: Duration = Duration::from_millis(200);

/// What is to be done with a record.
pub(crate) enum Verdict {
    Keep,
    Remove,
    /// Write these bytes in its place.
    Rewrite(Vec<u8>),
    /// This release cannot read it.
    Unreadable,
    /// An older release, which may be asked, cannot read it.
    NotHandedDown,
}

/// A table's records, without their type.
pub(crate) trait Swept: Send + Sync {
    fn judge(&self, bytes: &[u8], needed: Needed) -> Verdict;
    fn is_readable(&self, bytes: &[u8]) -> bool;
    fn schema(&self) -> u32;
}

struct Of<V>(PhantomData<fn() -> V>);

pub(crate) fn of<V: Record>() -> Box<dyn Swept> {
    Box::new(Of::<V>(PhantomData))
}

impl<V: Record> Swept for Of<V> {
    fn judge(&self, bytes: &[u8], needed: Needed) -> Verdict {
        let (value, expires) = match record::read::<V>(bytes) {
            Found::Value(value, expires) => (value, expires),
            Found::Expired => return Verdict::Remove,
            Found::Unreadable(_) => return Verdict::Unreadable,
        };
        let Some(parts) = Parts::of(bytes) else { return Verdict::Unreadable };
        let own = V::SCHEMA;
        let lowest = needed.lowest.min(own);
        let is_right = match (parts.schema, parts.older) {
            // Of a newer release, with a form for this one: it keeps what only that release knows, unless one that is
            // older still needs a form too.
            (schema, Some((older, _))) if schema > own => older <= lowest,
            (schema, Some((older, _))) => schema == own && older == lowest && lowest < own,
            (schema, None) if lowest == own => schema == own,
            // While an older release may be asked, its records stay as they are.
            (schema, None) => schema <= lowest,
        };
        if is_right {
            return Verdict::Keep;
        }
        match record::write(&value, expires, lowest) {
            Ok(written) if written.readable => Verdict::Rewrite(written.bytes),
            _ if lowest < own => Verdict::NotHandedDown,
            // What was just decoded and cannot be encoded: it stays as it is.
            _ => Verdict::Keep,
        }
    }

    fn is_readable(&self, bytes: &[u8]) -> bool {
        !matches!(record::read::<V>(bytes), Found::Unreadable(_))
    }

    fn schema(&self) -> u32 {
        V::SCHEMA
    }
}

/// One time through a table.
struct Pass {
    limits: Limits,
    report: Report,
    seen: u64,
    /// Whether some records have a time.
    expires: bool,
    told: Instant,
}

/// What one step found to be done.
#[derive(Default)]
struct Step {
    keys: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl Pass {
    fn new() -> Self {
        let (limits, report) = (Limits::default(), Report::default());
        Self { limits, report, seen: 0, expires: false, told: Instant::now() }
    }

    /// Goes a step further; whether there is more. `alone`: nobody else has the table open, so that what this release
    /// cannot read is of use to nobody now.
    fn step(&mut self, tables: &Inner, table: &Opened, alone: bool) -> Result<bool, TableError> {
        let needed = tables.store.needed(table.number);
        let step = tables.store.read(|transaction| self.look(transaction, table, needed, alone))??;
        if !step.keys.is_empty() {
            tables.store.write(|transaction| {
                let done = self.work(transaction, tables, table, &step.keys);
                (done.is_ok(), done)
            })??;
        }
        let more = step.last.is_some();
        if let Some(last) = step.last {
            self.limits.pass(last);
        }
        self.report.sweeping = more.then_some(self.seen);
        if !more || self.told.elapsed() >= TELL {
            self.told = Instant::now();
            // Every report has a JSON form.
            tables.store.report(table.number, &serde_json::to_vec(&self.report).unwrap_or_default());
        }
        Ok(more)
    }

    fn look(
        &mut self,
        transaction: &FfiTransaction<'_>,
        table: &Opened,
        needed: Needed,
        alone: bool,
    ) -> Result<Step, TableError> {
        let mut step = Step::default();
        let mut seen = 0;
        transaction.scan(self.limits.span(table.number), |key, bytes| {
            seen += 1;
            let parts = Parts::of(bytes);
            if let Some(parts) = parts {
                *self.report.schemas.entry(parts.schema).or_default() += 1;
                self.expires |= parts.expires.is_some();
            }
            match table.swept.judge(bytes, needed) {
                Verdict::Keep => {}
                Verdict::Remove | Verdict::Rewrite(_) => step.keys.push(key.to_vec()),
                Verdict::Unreadable => {
                    self.report.unreadable += 1;
                    if alone {
                        step.keys.push(key.to_vec());
                    }
                }
                Verdict::NotHandedDown => self.report.not_handed_down += 1,
            }
            let more = seen < STEP;
            if !more {
                step.last = Some(key.to_vec());
            }
            more
        })?;
        self.seen += seen as u64;
        Ok(step)
    }

    /// Looks at these records again, for they may have changed, and does what is to be done.
    fn work(
        &mut self,
        transaction: &mut FfiTransaction<'_>,
        tables: &Inner,
        table: &Opened,
        keys: &[Vec<u8>],
    ) -> Result<(), TableError> {
        let needed = tables.store.needed(table.number);
        for key in keys {
            let Some(bytes) = transaction.get(table.number, key)? else { continue };
            let schema = Parts::of(bytes).map(|parts| parts.schema);
            match table.swept.judge(bytes, needed) {
                Verdict::Remove => {
                    transaction.delete(table.number, key)?;
                    self.report.expired += 1;
                    self.recount(schema, None);
                }
                Verdict::Rewrite(bytes) => {
                    transaction.put(table.number, key, &bytes)?;
                    self.report.migrated += 1;
                    self.recount(schema, Some(table.swept.schema()));
                }
                // Not by one who shares the table: somebody else may be able to read it.
                Verdict::Unreadable if needed.users <= 1 => {
                    set_aside(transaction, table, key)?;
                    transaction.delete(table.number, key)?;
                    self.recount(schema, None);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn recount(&mut self, from: Option<u32>, to: Option<u32>) {
        if let Some(count) = from.and_then(|from| self.report.schemas.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *self.report.schemas.entry(to).or_default() += 1;
        }
        self.report.schemas.retain(|_, count| *count > 0);
    }

    /// Brings back what was kept aside and can be read by this release, unless its place has been taken.
    fn bring_back(tables: &Inner, table: &Opened) -> Result<(), TableError> {
        let aside = table.number | ASIDE;
        let mut limits = Limits::default();
        loop {
            let (mut keys, mut last, mut seen) = (vec![], None, 0);
            let read = tables.store.read(|transaction| {
                transaction.scan(limits.span(aside), |key, bytes| {
                    seen += 1;
                    if table.swept.is_readable(bytes) {
                        keys.push(key.to_vec());
                    }
                    let more = seen < STEP;
                    if !more {
                        last = Some(key.to_vec());
                    }
                    more
                })
            });
            read??;
            tables.store.write(|transaction| {
                let done = keys.iter().try_for_each(|key| Self::back(transaction, table, key));
                (done.is_ok(), done)
            })??;
            match last {
                Some(last) => limits.pass(last),
                None => return Ok(()),
            }
        }
    }

    fn back(transaction: &mut FfiTransaction<'_>, table: &Opened, key: &[u8]) -> Result<(), TableError> {
        let aside = table.number | ASIDE;
        // The last byte tells several of one key apart.
        let Some((_, own)) = key.split_last() else { return Ok(()) };
        let Some(bytes) = transaction.get(aside, key)?.map(<[u8]>::to_vec) else { return Ok(()) };
        if transaction.get(table.number, own)?.is_none() {
            transaction.put(table.number, own, &bytes)?;
            transaction.delete(aside, key)?;
        }
        Ok(())
    }
}

/// Goes through one table as fast as it can.
fn whole(tables: &Inner, table: &Opened, alone: bool) -> Result<Report, TableError> {
    let mut pass = Pass::new();
    while pass.step(tables, table, alone)? {}
    Ok(pass.report)
}

/// Goes through all tables once, as fast as it can.
#[cfg(any(test, feature = "testing"))]
pub(super) fn all(tables: &Inner) -> Result<(), TableError> {
    let open: Vec<_> = tables.open().values().cloned().collect();
    for table in open {
        let alone = tables.store.needed(table.number).users <= 1;
        if alone {
            Pass::bring_back(tables, &table)?;
        }
        let report = whole(tables, &table, alone)?;
        table.clean.store(report.unreadable == 0, Ordering::Release);
    }
    Ok(())
}

/// Makes every record readable for all who have its table open; how many were written.
pub(super) fn hand_down(tables: &Inner) -> Result<u64, TableError> {
    let open: Vec<_> = tables.open().values().cloned().collect();
    let mut written = 0;
    for table in open {
        if tables.store.needed(table.number).lowest >= table.swept.schema() {
            continue;
        }
        let report = whole(tables, &table, false)?;
        written += report.migrated;
        if report.not_handed_down > 0 {
            let words = format!(
                "table `{}`: {} records have no form for the release that is to take over; it does not see them, \
                 and they come back with a release that reads them",
                table.name, report.not_handed_down
            );
            crate::log::send(2, "relmgr_app", &words);
        }
    }
    Ok(written)
}

/// The sweep while it runs.
pub(crate) struct Sweeper {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What is remembered of the last time through a table.
struct LastTime {
    needed: Needed,
    unreadable: u64,
    ended: Instant,
    took: Duration,
    expires: bool,
}

impl Sweeper {
    pub(crate) fn start(tables: Tables, handle: &Handle) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: handle.spawn(sweep(tables, stopped)) }
    }

    /// Ends it, after the step that it is at.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        // A panic of it would be a fault of this module.
        let _ = self.task.await;
    }
}

async fn sweep(tables: Tables, mut stop: watch::Receiver<bool>) {
    let mut last: BTreeMap<u32, LastTime> = BTreeMap::new();
    loop {
        let open: Vec<_> = tables.0.open().values().cloned().collect();
        for table in open {
            if !is_due(&tables, &table, last.get(&table.number)) {
                continue;
            }
            let begun = Instant::now();
            let needed = tables.0.store.needed(table.number);
            let unreadable = table.unreadable.load(Ordering::Relaxed);
            match through(&tables, &table, &mut stop).await {
                Ok(Some(expires)) => {
                    let (ended, took) = (Instant::now(), begun.elapsed());
                    last.insert(table.number, LastTime { needed, unreadable, ended, took, expires });
                }
                // Told to stop.
                Ok(None) => return,
                Err(error) => {
                    let words = format!("table `{}` is not swept: {error}", table.name);
                    crate::log::send(2, "relmgr_app", &words);
                    let (ended, took) = (Instant::now(), begun.elapsed());
                    last.insert(table.number, LastTime { needed, unreadable, ended, took, expires: true });
                }
            }
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tables.0.due.notified() => {}
            () = tokio::time::sleep(GLANCE) => {}
        }
    }
}

fn is_due(tables: &Tables, table: &Opened, last: Option<&LastTime>) -> bool {
    let Some(last) = last else { return true };
    let rest = EXPIRY.max(last.took.saturating_mul(100));
    tables.0.store.needed(table.number) != last.needed
        || table.unreadable.load(Ordering::Relaxed) != last.unreadable
        || ((last.expires || table.expires.load(Ordering::Relaxed)) && last.ended.elapsed() >= rest)
}

/// Goes through a table once, at rest most of the time; whether it has records with a time. `None`: told to stop.
async fn through(
    tables: &Tables,
    table: &Arc<Opened>,
    stop: &mut watch::Receiver<bool>,
) -> Result<Option<bool>, TableError> {
    let mut pass = Pass::new();
    let mut first = true;
    loop {
        let (tables, table) = (tables.clone(), table.clone());
        let begun = Instant::now();
        let step = tokio::task::spawn_blocking(move || {
            let more = (|| {
                let alone = tables.0.store.needed(table.number).users <= 1;
                if first && alone {
                    Pass::bring_back(&tables.0, &table)?;
                }
                pass.step(&tables.0, &table, alone)
            })();
            if let Ok(false) = more {
                // What is overwritten from now on has been read, unless a reader says otherwise.
                let clean = pass.report.unreadable == 0;
                table.clean.store(clean, Ordering::Release);
            }
            (pass, more)
        });
        // The runtime ends, and everything with it.
        let Ok((back, more)) = step.await else { return Ok(None) };
        (pass, first) = (back, false);
        if !more? {
            return Ok(Some(pass.expires));
        }
        let rest = begun.elapsed() * 4;
        if tokio::time::timeout(rest, stop.wait_for(|stop| *stop)).await.is_ok() {
            return Ok(None);
        }
    }
}
