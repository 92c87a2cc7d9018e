//! Which thread a record means: ids to threads, and threads to names.
//!
//! The part of `build.rs` that knows thread ids. A record has 16 bits of an id, which come round,
//! and the spawn that gave the id its name may be among the lost.
//!
//! Decision: an id is looked up with its CPU first, and only then alone: ids of two CPUs may be
//! independent, and where they are not, the only thread that ever had the id is meant.

use std::collections::hash_map::Entry;

use executor::trace::record::{ANNOUNCED, Record};

use super::super::model::{Thread, ThreadIndex};
use super::super::stream::Stream;
use super::Builder;

impl Builder {
    /// The thread that `cpu` calls `id`. One that was never named gets a name from its id, unless
    /// another CPU named the only thread with that id: then the id is node-wide and it is that.
    pub(super) fn thread(&mut self, cpu: u16, id: u16) -> ThreadIndex {
        if let Some(thread) = self.by_cpu_and_id.get(&(cpu, id)) {
            return *thread;
        }
        let index = match self.by_id_alone.get(&id) {
            Some(Some(thread)) => *thread,
            _ => {
                let name = format!("thread {id}");
                self.new_thread(Thread {
                    name,
                    id,
                    cpu,
                    ..Thread::default()
                })
            }
        };
        self.by_cpu_and_id.insert((cpu, id), index);
        index
    }

    fn new_thread(&mut self, thread: Thread) -> ThreadIndex {
        let index = self.trace.threads.len() as ThreadIndex;
        match self.by_id_alone.entry(thread.id) {
            Entry::Vacant(entry) => {
                entry.insert(Some(index));
            }
            Entry::Occupied(mut entry) => {
                entry.insert(None);
            }
        }
        self.by_cpu_and_id.insert((thread.cpu, thread.id), index);
        self.trace.threads.push(thread);
        index
    }

    /// Replays a spawn, or the announcement of a thread that was there already.
    pub(super) fn spawn(
        &mut self,
        cpu: u16,
        record: Record,
        parent: Option<ThreadIndex>,
        stream: &Stream,
    ) -> ThreadIndex {
        let name_id = record.arg();
        let id = record.thread();
        let announced = record.small() & ANNOUNCED != 0;
        if announced
            && let Some(&known) = self.by_cpu_and_id.get(&(cpu, id))
            && self
                .name_ids
                .get(&known)
                .is_none_or(|before| *before == name_id)
        {
            // Told again, or told after it was seen: the same thread, now with its name.
            self.name_ids.insert(known, name_id);
            let thread = &mut self.trace.threads[known as usize];
            if let Some(name) = stream.names.get(&name_id) {
                thread.name.clone_from(&name.name);
                thread.site.clone_from(&name.site);
            }
            thread.priority = Some(record.small() & !ANNOUNCED);
            return known;
        }
        let name = stream.names.get(&name_id).cloned().unwrap_or_default();
        let index = self.new_thread(Thread {
            name: if name.name.is_empty() {
                format!("thread {id}")
            } else {
                name.name
            },
            site: name.site,
            id,
            cpu,
            priority: Some(record.small() & !ANNOUNCED),
            parent: if announced { None } else { parent },
            spawned_ns: (!announced).then_some(record.time_ns),
            ..Thread::default()
        });
        self.name_ids.insert(index, name_id);
        if !announced {
            self.wake(cpu, cpu, parent, index, true, record.time_ns);
        }
        index
    }
}
