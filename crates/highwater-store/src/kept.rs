//! The past of an opened store: which epochs it keeps, and what was live at each of them.

use crate::error::StoreError;
use crate::history::History;
use crate::ids::Epoch;
use crate::shard_end::Opened;
use crate::store::{Row, Store};
use crate::units::UnitRow;
use std::ops::RangeInclusive;

impl Store {
    /// Whether it is a copy of the store that the last run had: a backup that was put back, or an import. What lies in
    /// the outputs beyond it may then be committed, by a run that this store knows nothing of.
    pub fn is_copy(&self) -> bool {
        !self.is_new() && self.manifest.is_copy(&*self.media)
    }

    /// How much of the past the store was told to keep; nothing: no more than a resume needs.
    pub fn history(&self) -> Option<History> {
        self.manifest.history.map(|kept| kept.keep)
    }

    /// The epochs that can be read: all from the first to the last of these. The last is [`resume`](Store::resume).
    pub fn kept(&self) -> RangeInclusive<Epoch> {
        let floor = self.shards.iter().map(|shard| shard.found.floor).max();
        let from = self.manifest.history.and(floor).unwrap_or(self.resume);
        from..=self.resume
    }

    /// Visits every row that was live at the end of `epoch`, once, in any order, after all of them were checked against
    /// the counts and hashes of that epoch. Streams from the log; an older epoch takes one more pass over it.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] if the epoch is not one of [`kept`](Store::kept); else as [`rows`](Store::rows).
    ///
    /// # Example
    /// ```
    /// # use highwater_store::{Epoch, History, OpenOptions, Rows, StartPlan, Store, key_group};
    /// let options = OpenOptions::new("carts");
    /// let steps = vec![("joiner".into(), "state".into())];
    /// let plan = StartPlan { shards: 1, steps, history: Some(History::Epochs(10)), ..StartPlan::default() };
    /// let mut started = Store::open(options.clone())?.start(plan)?;
    /// for number in 1..=3 {
    ///     let mut rows = Rows::new();
    ///     rows.put(started.steps[0].id, key_group(b"a", 128), b"a", &[number]);
    ///     started.shards[0].append(Epoch(number.into()), Epoch(number.into()), &rows, false)?;
    /// }
    /// started.shards[0].sync()?;
    /// drop(started);
    ///
    /// let store = Store::open(options)?;
    /// assert_eq!(store.kept(), Epoch(0)..=Epoch(3));
    /// store.rows_at(Epoch(2), &mut |row| assert_eq!(row.value, [2]))?;
    /// # Ok::<(), highwater_store::StoreError>(())
    /// ```
    pub fn rows_at(&self, epoch: Epoch, visit: &mut dyn FnMut(Row<'_>)) -> Result<(), StoreError> {
        let names: ahash::HashMap<_, _> = self.manifest.steps.iter().map(|step| (step.id, &*step.name)).collect();
        for shard in &self.shards {
            self.shard_rows_at(shard, epoch, &mut |row| {
                let step =
                    *names.get(&row.row.step).ok_or_else(|| format!("a row is of unknown step {}", row.row.step))?;
                let value = row.row.value.ok_or("a removed row counts as live")?;
                visit(Row { step, group: row.row.group, key: row.row.key, value });
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The same for one shard, with rows as they lie in it.
    pub(crate) fn shard_rows_at(
        &self,
        shard: &Opened,
        epoch: Epoch,
        visit: &mut dyn FnMut(&UnitRow<'_>) -> Result<(), String>,
    ) -> Result<(), StoreError> {
        let kept = self.kept();
        if !kept.contains(&epoch) {
            let (path, asked, (from, to)) = (self.media.path(""), epoch, kept.into_inner());
            return Err(StoreError::NotKept { path, asked, from, to });
        }
        let path = self.media.path(&shard.place.dir);
        let reader = shard.reader(&path, None);
        if epoch == self.resume {
            return reader.live(shard.found.index.live_places(), visit);
        }
        let then = reader.read(&self.manifest.lineage.until(self.execution(), epoch), epoch, &mut |_| Ok(()))?;
        reader.live(then.index.live_places(), visit)
    }
}
