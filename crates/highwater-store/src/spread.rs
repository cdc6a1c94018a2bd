//! A store that lies in several directories: each process of a cluster has one on a disk of its own.
//!
//! To the protocol above they are one medium: a shard lies in one of them, the manifest in all. Its writing has barriers,
//! since no two disks change at once. A rescale is *prepared* in the manifests of all that take part, those that give
//! and those that get; then its shards are made; then it is *active* everywhere; then *settled*. Whoever is prepared or
//! active and not settled names all that took part, and starts only together with them, so that no two halves go on
//! without each other. The generation that counts is the greatest that is active anywhere; all its shards must be here.

use crate::error::StoreError;
use crate::ids::{Execution, Generation};
use crate::manifest::{MANIFEST, Manifest, Named, Scatter, generation_of};
use crate::media::{Lock, Log, Media, broken, replace};
use crate::options::Backend;
use crate::rules::{Rule, on};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A directory that takes part.
pub(crate) struct Part {
    pub(crate) media: Arc<dyn Media>,
    /// Its number and how a person calls it.
    pub(crate) named: Named,
    /// The process whose shards are made here; none: it only gives away what it has.
    pub(crate) process: Option<usize>,
}

/// Several directories as one medium.
pub(crate) struct Spread {
    parts: Vec<Part>,
    /// The part of each process.
    owners: Vec<usize>,
    /// Shards of the generation that will be made.
    shards: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where each shard lies.
    homes: BTreeMap<(Generation, usize), usize>,
    /// All that lies here: a shard may lie in several.
    found: Vec<((Generation, usize), usize)>,
    /// The generation that counts, and the directories of its shards in order.
    active: Generation,
    of_active: Vec<Named>,
}

/// What a path leads to.
enum Place {
    All,
    Generation,
    Shard(usize),
}

impl Spread {
    /// `parts` as one, for a run of `shards` shards: as many in the part of each process.
    pub(crate) fn new(parts: Vec<Part>, shards: usize) -> Result<Spread, StoreError> {
        let count = parts.iter().filter(|part| part.process.is_some()).count();
        let owner = |process| parts.iter().position(|part| part.process == Some(process));
        let owners: Option<Vec<usize>> = (0..count).map(owner).collect();
        let owners = owners.expect("each process has one directory of its own");
        let mut state = State::default();
        for (at, part) in parts.iter().enumerate() {
            let list = |dir: &str| part.media.list(dir).map_err(StoreError::io(part.media.path(dir), "listing"));
            for dir in list("")? {
                let Some(generation) = generation_of(&dir) else { continue };
                for shard in list(&dir)?.iter().filter_map(|name| shard_number(name)) {
                    state.found.push(((generation, shard), at));
                }
            }
        }
        state.homes = state.found.iter().copied().collect();
        Ok(Spread { parts, owners, shards, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scattered(&self, what: String) -> StoreError {
        StoreError::Scattered { path: self.path(""), what }
    }

    fn name(&self, part: usize) -> &str {
        &self.parts[part].named.name
    }

    /// The manifest that counts, of those in all directories; none if there is none.
    pub(crate) fn manifest(&self) -> Result<Option<Manifest>, StoreError> {
        let mut found: Vec<(usize, Manifest)> = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            found.extend(Manifest::read(&*part.media)?.map(|manifest| (at, manifest)));
        }
        let here = |named: &Named| self.parts.iter().any(|part| part.named.dir == named.dir);
        for (at, manifest) in found.iter().filter(|_| on(Rule::Settled)) {
            let unsettled = manifest.spread.iter().flat_map(|spread| &spread.unsettled);
            let missing: Vec<&str> = unsettled.filter(|named| !here(named)).map(|named| named.name.as_str()).collect();
            if !missing.is_empty() {
                let (name, missing) = (self.name(*at), missing.join(", "));
                return Err(self.scattered(format!(
                    "{name} was in a start that was cut short, together with {missing}, which is not here: start all that took \
                     part together once"
                )));
            }
        }
        let Some(base) = found.iter().map(|(_, manifest)| manifest.generation).max() else { return Ok(None) };
        let newest = found.iter().map(|(_, manifest)| manifest.execution).max().unwrap_or(Execution(0));
        let numbers = found.iter().flat_map(|(_, manifest)| [manifest.prepared, Some(manifest.generation)]);
        let prepared = numbers.max().flatten();
        // A store that was never begun has no identity yet.
        let mut stores = found.iter().filter(|(_, manifest)| manifest.generation != Generation(0));
        if let Some((first, one)) = stores.next()
            && let Some((at, other)) = stores.find(|(_, other)| other.id != one.id)
        {
            let (first, at) = (self.name(*first), self.name(*at));
            return Err(self.scattered(format!("{first} is of store {}, {at} of store {}", one.id, other.id)));
        }
        let mut state = self.state();
        let state = &mut *state;
        let holds = |at: usize| state.found.iter().any(|((generation, _), part)| *generation == base && *part == at);
        // Whoever has shards of it was told of every start on it; of several the last start counts.
        let best = found
            .iter()
            .filter(|(_, manifest)| manifest.generation == base)
            .max_by_key(|(at, manifest)| (holds(*at), manifest.execution));
        let mut manifest = best.expect("one has the greatest generation").1.clone();
        if base != Generation(0) {
            self.at_home(state, &manifest)?;
            self.all_here(state, &manifest)?;
        }
        state.active = base;
        state.of_active = manifest.spread.take().map(|spread| spread.homes).unwrap_or_default();
        manifest.execution = newest;
        manifest.prepared = prepared.filter(|prepared| *prepared > base);
        Ok(Some(manifest))
    }

    /// Knows each shard that counts in the directory where it was made. One elsewhere is what a start left that was cut
    /// short, of the same number because those that gave the number again did not have that directory.
    fn at_home(&self, state: &mut State, manifest: &Manifest) -> Result<(), StoreError> {
        let Manifest { generation, shards, .. } = *manifest;
        let whole = manifest.spread.as_ref().is_none_or(|spread| spread.homes.is_empty());
        let is_home = |shard: usize, part: usize| {
            whole || home(manifest, shard).is_some_and(|home| home.dir == self.parts[part].named.dir)
        };
        state.homes.retain(|(of, _), _| *of != generation);
        for ((of, shard), part) in state.found.iter().copied() {
            if of != generation || shard >= shards || !is_home(shard, part) {
                continue;
            }
            if let Some(other) = state.homes.insert((of, shard), part).filter(|other| *other != part) {
                let (one, other) = (self.name(other), self.name(part));
                return Err(
                    self.scattered(format!("{one} and {other} both have shard {shard}: one is a copy, take it away"))
                );
            }
        }
        Ok(())
    }

    /// Refuses if a shard that counts is not here, and says whose it is.
    fn all_here(&self, state: &State, manifest: &Manifest) -> Result<(), StoreError> {
        let Manifest { generation, shards, .. } = *manifest;
        let missing = (0..shards).filter(|shard| !state.homes.contains_key(&(generation, *shard)));
        let whose = missing.map(|shard| match home(manifest, shard) {
            None => format!("shard {shard} (of a store in one directory)"),
            Some(home) if self.parts.iter().any(|part| part.named.dir == home.dir) => {
                format!("shard {shard}, which is gone from {}: restore a backup", home.name)
            }
            Some(home) => format!("shard {shard}, which lies in {}: that directory is not here", home.name),
        });
        let whose: Vec<String> = whose.collect();
        match whose.is_empty() {
            true => Ok(()),
            false => Err(self.scattered(format!("generation {generation} lacks {}", whose.join("; ")))),
        }
    }

    /// Puts a manifest into every directory, in as many passes as it takes: nobody is ahead of the others by more than one.
    pub(crate) fn write(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let switch = manifest.prepared.is_none() && manifest.generation != self.state().active;
        let all: Vec<Named> = self.parts.iter().map(|part| part.named.clone()).collect();
        let homes = match switch {
            true => self.owners.iter().map(|part| self.parts[*part].named.clone()).collect(),
            false => self.state().of_active.clone(),
        };
        let open = if manifest.prepared.is_some() || switch { all } else { Vec::new() };
        self.pass(manifest, &homes, &open)?;
        crate::fail::point(if switch { "spread-active" } else { "spread-written" });
        if switch {
            self.pass(manifest, &homes, &[])?;
            crate::fail::point("spread-settled");
            let mut state = self.state();
            (state.active, state.of_active) = (manifest.generation, homes);
        }
        Ok(())
    }

    fn pass(&self, manifest: &Manifest, homes: &[Named], unsettled: &[Named]) -> Result<(), StoreError> {
        let state = self.state();
        let holds = |at: &usize| !state.homes.iter().any(|((of, _), home)| *of == state.active && home == at);
        let mut order: Vec<usize> = (0..self.parts.len()).collect();
        // Those without a shard that counts come last: what they know, the others know.
        order.sort_by_key(holds);
        drop(state);
        for at in order {
            let Part { media, named, .. } = &self.parts[at];
            let spread = Scatter { own: named.dir, homes: homes.to_vec(), unsettled: unsettled.to_vec() };
            let bytes = Manifest { spread: Some(spread), ..manifest.clone() }.encode();
            replace(&**media, MANIFEST, &bytes, || crate::fail::point("manifest-written"))
                .map_err(|source| broken(&**media, MANIFEST, "writing", None, source))?;
            crate::fail::point("manifest-renamed");
        }
        Ok(())
    }

    /// Whether each shard of the generation that counts lies where a run of this shape would make it.
    pub(crate) fn in_place(&self, generation: Generation, shards: usize) -> bool {
        let state = self.state();
        (0..shards).all(|shard| state.homes.get(&(generation, shard)) == Some(&self.owner(shard, shards)))
    }

    fn owner(&self, shard: usize, shards: usize) -> usize {
        self.owners[shard * self.owners.len() / shards]
    }

    fn place(&self, path: &str) -> io::Result<Place> {
        let mut names = path.split('/');
        let generation = match names.next() {
            None | Some("") => return Ok(Place::All),
            Some(first) => generation_of(first).ok_or_else(|| unknown(path))?,
        };
        let Some(shard) = names.next() else { return Ok(Place::Generation) };
        let shard = shard_number(shard).ok_or_else(|| unknown(path))?;
        let home = self.state().homes.get(&(generation, shard)).copied();
        home.map(Place::Shard).ok_or_else(|| unknown(path))
    }

    /// The directory of a shard, or of what lies in it.
    fn shard(&self, path: &str) -> io::Result<&dyn Media> {
        match self.place(path)? {
            Place::Shard(part) => Ok(&*self.parts[part].media),
            _ => Err(unknown(path)),
        }
    }

    /// The directories that a path is about.
    fn those(&self, path: &str) -> io::Result<Vec<&dyn Media>> {
        let media = |part: &usize| &*self.parts[*part].media;
        Ok(match self.place(path)? {
            Place::All => self.parts.iter().map(|part| &*part.media).collect(),
            Place::Generation => self.owners.iter().map(media).collect(),
            Place::Shard(part) => vec![media(&part)],
        })
    }
}

/// The directory in which a shard of the generation that counts was made; none in a store of one directory.
fn home(manifest: &Manifest, shard: usize) -> Option<&Named> {
    let homes = &manifest.spread.as_ref()?.homes;
    homes.get(shard * homes.len() / manifest.shards)
}

fn unknown(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path} is in none of the directories"))
}

/// The number in the name of a shard's directory.
fn shard_number(name: &str) -> Option<usize> {
    name.strip_prefix("shard-")?.parse().ok()
}

impl Media for Spread {
    fn path(&self, name: &str) -> PathBuf {
        match self.place(name) {
            Ok(Place::Shard(part)) => self.parts[part].media.path(name),
            _ => self.parts[self.owners[0]].media.path(name),
        }
    }

    fn free_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.media.free_bytes()).min().unwrap_or_default()
    }

    /// Each directory is held by its process.
    fn lock(&self) -> Result<Lock, StoreError> {
        Ok(Arc::new(()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        match self.place(dir) {
            // What was there before may lie in any of them.
            Ok(Place::All | Place::Generation) => {
                for part in &self.parts {
                    names.extend(part.media.list(dir)?);
                }
            }
            Ok(Place::Shard(part)) => names = self.parts[part].media.list(dir)?,
            Err(_) => {}
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        self.shard(file)?.read(file)
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.shard(file)?.write(file, bytes)
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.shard(file)?.write_at(file, offset, bytes)
    }

    fn sync_file(&self, file: &str) -> io::Result<()> {
        self.shard(file)?.sync_file(file)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.those(dir)?.into_iter().try_for_each(|media| media.sync_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.shard(from)?.rename(from, to)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut names = dir.split('/');
        let generation = names.next().and_then(generation_of).ok_or_else(|| unknown(dir))?;
        if let (Some(shard), None) = (names.next(), names.next()) {
            let shard = shard_number(shard).ok_or_else(|| unknown(dir))?;
            let owner = self.owner(shard, self.shards);
            let mut state = self.state();
            state.homes.insert((generation, shard), owner);
            state.found.push(((generation, shard), owner));
        }
        self.those(dir)?.into_iter().try_for_each(|media| media.create_dir(dir))
    }

    /// Of whole generations only.
    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let generation = generation_of(dir).ok_or_else(|| unknown(dir))?;
        let mut state = self.state();
        state.homes.retain(|(other, _), _| *other != generation);
        state.found.retain(|((other, _), _)| *other != generation);
        drop(state);
        self.parts.iter().try_for_each(|part| part.media.remove_dir(dir))
    }

    fn settle_log(&self, dir: &str) -> io::Result<()> {
        self.shard(dir)?.settle_log(dir)
    }

    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        self.shard(dir)?.create_log(dir, backend)
    }

    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        self.shard(dir)?.open_log(dir, backend)
    }

    fn spread(&self) -> Option<&Spread> {
        Some(self)
    }
}
