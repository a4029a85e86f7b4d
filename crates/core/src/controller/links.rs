//! Which objects are about what, kept as the world changes.

use std::collections::BTreeSet;

use crate::controller::index::Index;
use crate::controller::topic::{Object, Topic};

/// The index, both ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    about: Index<Object, Box<[Topic]>>,
    objects: Index<Topic, Index<Object, ()>>,
}

/// All that has to be known to plan for one part of a world: no object outside of it is about anything that is in it.
#[derive(Debug, Default)]
pub(super) struct Part<'l> {
    /// What it is about; no places.
    pub(super) topics: BTreeSet<&'l Topic>,
    /// Its objects.
    pub(super) objects: BTreeSet<&'l Object>,
    /// The places of these.
    pub(super) places: BTreeSet<&'l Topic>,
}

impl Links {
    /// An object is there, or is about something else than before. What it was about before is to be planned for, as is what it
    /// is about now.
    pub(super) fn put(&mut self, object: &Object, topics: Vec<Topic>, dirty: &mut BTreeSet<Topic>) {
        if self.about.get(object).is_some_and(|before| **before == *topics) {
            dirty.extend(topics.into_iter().filter(|topic| !topic.is_place()));
            return;
        }
        self.remove(object, dirty);
        for topic in &topics {
            self.objects.entry(topic.clone()).or_default().insert(object.clone(), ());
            if !topic.is_place() {
                dirty.insert(topic.clone());
            }
        }
        self.about.insert(object.clone(), topics.into());
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, object: &Object, dirty: &mut BTreeSet<Topic>) {
        for topic in self.about.remove(object).into_iter().flatten() {
            if let Some(objects) = self.objects.get_mut(&topic) {
                objects.remove(object);
                if objects.is_empty() {
                    self.objects.remove(&topic);
                }
            }
            if !topic.is_place() {
                dirty.insert(topic);
            }
        }
    }

    /// Everything that an object is about.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.objects.keys()
    }

    /// What the objects in a place are about.
    pub(super) fn in_place(&self, place: &Topic) -> BTreeSet<&Topic> {
        self.of(place).flat_map(|object| self.about(object)).filter(|topic| !topic.is_place()).collect()
    }

    /// The part of the world that something belongs to.
    pub(super) fn part<'l>(&'l self, of: &'l Topic) -> Part<'l> {
        let mut part = Part { topics: BTreeSet::from([of]), ..Part::default() };
        let mut open = vec![of];
        while let Some(topic) = open.pop() {
            for object in self.of(topic) {
                if !part.objects.insert(object) {
                    continue;
                }
                for topic in self.about(object) {
                    if topic.is_place() {
                        part.places.insert(topic);
                    } else if part.topics.insert(topic) {
                        open.push(topic);
                    }
                }
            }
        }
        part
    }

    fn of(&self, topic: &Topic) -> impl Iterator<Item = &Object> {
        self.objects.get(topic).into_iter().flat_map(Index::keys)
    }

    fn about(&self, object: &Object) -> impl Iterator<Item = &Topic> {
        self.about.get(object).into_iter().flatten()
    }
}
