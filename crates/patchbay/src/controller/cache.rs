//! A cache of one kind of object: what a watch has told, in the core's words.
//!
//! Objects are translated when they arrive, so that nothing is kept but what the planner needs. A cache is synced from the
//! end of its first list on; when the watch has to list again, what is known stays until the new list is whole.

use std::collections::BTreeMap;

use kube::Resource;
use kube::runtime::watcher::Event;
use patchbay_api::Unreadable;
use patchbay_core::names::Uid;

/// An object's namespace (empty for what has none) and name.
pub(super) type ObjectKey = (String, String);

/// An object, as it was when it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<V> {
    /// Its uid.
    pub(super) uid: Uid,
    /// It has a deletion timestamp.
    pub(super) deleting: bool,
    /// What it says; None when it cannot be read.
    pub(super) value: Option<V>,
}

/// News about one object, or about the list.
#[derive(Clone, Debug)]
pub(super) enum Delta<V> {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(ObjectKey, u64, Entry<V>),
    /// The list is whole.
    End,
    /// An object is new or has changed.
    Put(ObjectKey, u64, Entry<V>),
    /// An object is gone.
    Remove(ObjectKey, u64),
}

impl<V> Delta<V> {
    /// Translates an event. What cannot be read is logged, and kept as unreadable.
    pub(super) fn new<K>(event: &Event<K>, read: fn(&K) -> Result<V, Unreadable>) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        let entry = |object: &K| {
            let meta = object.meta();
            let value = read(object).map_err(|error| {
                let (kind, namespace, name) = (K::kind(&()), meta.namespace.as_deref(), meta.name.as_deref());
                tracing::warn!(%kind, namespace, name, %error, "object is ignored");
            });
            let uid = Uid::new(meta.uid.as_deref().unwrap_or_default());
            Entry { uid, deleting: meta.deletion_timestamp.is_some(), value: value.ok() }
        };
        match event {
            Event::Init => Self::Begin,
            Event::InitApply(object) => Self::Listed(key(object), version(object), entry(object)),
            Event::InitDone => Self::End,
            Event::Apply(object) => Self::Put(key(object), version(object), entry(object)),
            Event::Delete(object) => Self::Remove(key(object), version(object)),
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The version of an object. Versions of one kind are numbers that grow with time (KEP-5504); 0 when this one is not.
pub(super) fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// What is known of one kind of object.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: BTreeMap<ObjectKey, Entry<V>>,
    incoming: BTreeMap<ObjectKey, Entry<V>>,
    synced: bool,
    newest: u64,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), incoming: BTreeMap::new(), synced: false, newest: 0 }
    }
}

impl<V: PartialEq> Cache<V> {
    /// Takes news in; says whether anything is different now. Of each value that is, `change` gets what it was and what it is.
    pub(super) fn apply(&mut self, delta: Delta<V>, mut change: impl FnMut(Option<&V>, Option<&V>)) -> bool {
        match delta {
            Delta::Begin => {
                self.incoming.clear();
                false
            }
            Delta::Listed(key, version, entry) => {
                self.newest = self.newest.max(version);
                self.incoming.insert(key, entry);
                false
            }
            Delta::End => {
                let incoming = std::mem::take(&mut self.incoming);
                let before = std::mem::replace(&mut self.entries, incoming);
                for (_, entry) in before.iter().filter(|(key, _)| !self.entries.contains_key(key)) {
                    change(entry.value.as_ref(), None);
                }
                for (key, entry) in &self.entries {
                    tell(before.get(key), entry, &mut change);
                }
                !std::mem::replace(&mut self.synced, true) || before != self.entries
            }
            Delta::Put(key, version, entry) => {
                self.newest = self.newest.max(version);
                let before = self.entries.get(&key);
                tell(before, &entry, &mut change);
                let changed = before != Some(&entry);
                self.entries.insert(key, entry);
                changed
            }
            Delta::Remove(key, version) => {
                self.newest = self.newest.max(version);
                let before = self.entries.remove(&key);
                change(before.as_ref().and_then(|entry| entry.value.as_ref()), None);
                before.is_some()
            }
        }
    }

    /// The first list is whole.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// The newest version seen. What was written before it has been seen too.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// One object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Entry<V>> {
        self.entries.get(key)
    }

    /// All objects that can be read.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().filter_map(|e| e.value.as_ref())
    }
}

/// Tells of an entry's value, if it is another one than before.
fn tell<V: PartialEq>(before: Option<&Entry<V>>, now: &Entry<V>, change: &mut impl FnMut(Option<&V>, Option<&V>)) {
    let (before, now) = (before.and_then(|entry| entry.value.as_ref()), now.value.as_ref());
    if before != now {
        change(before, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        (String::new(), name.to_owned())
    }

    fn entry(value: i32) -> Entry<i32> {
        Entry { uid: "u".into(), deleting: false, value: Some(value) }
    }

    fn apply(cache: &mut Cache<i32>, delta: Delta<i32>) -> bool {
        cache.apply(delta, |_, _| {})
    }

    fn values(cache: &Cache<i32>) -> Vec<i32> {
        cache.values().copied().collect()
    }

    #[test]
    fn a_cache_is_synced_when_its_first_list_is_whole() {
        let mut cache = Cache::default();
        apply(&mut cache, Delta::Begin);
        apply(&mut cache, Delta::Listed(key("a"), 1, entry(1)));
        assert!(!cache.synced() && values(&cache).is_empty());
        assert!(apply(&mut cache, Delta::End));
        assert!(cache.synced());
        assert_eq!(values(&cache), [1]);
    }

    #[test]
    fn what_is_known_stays_until_a_new_list_is_whole() {
        let mut cache = Cache::default();
        apply(&mut cache, Delta::End);
        apply(&mut cache, Delta::Put(key("a"), 1, entry(1)));
        apply(&mut cache, Delta::Begin);
        apply(&mut cache, Delta::Listed(key("b"), 2, entry(2)));
        assert_eq!(values(&cache), [1]);
        assert!(apply(&mut cache, Delta::End), "the first object is gone");
        assert_eq!(values(&cache), [2]);
    }

    #[test]
    fn an_event_that_says_nothing_new_changes_nothing_but_the_version() {
        let mut cache = Cache::default();
        apply(&mut cache, Delta::End);
        assert!(apply(&mut cache, Delta::Put(key("a"), 5, entry(1))));
        assert!(!apply(&mut cache, Delta::Put(key("a"), 9, entry(1))));
        assert_eq!(cache.newest(), 9);
        assert!(apply(&mut cache, Delta::Remove(key("a"), 12)));
        assert!(!apply(&mut cache, Delta::Remove(key("a"), 12)));
        assert_eq!(cache.newest(), 12);
    }

    #[test]
    fn an_object_that_became_unreadable_is_no_longer_believed() {
        let mut cache = Cache::default();
        apply(&mut cache, Delta::Put(key("a"), 1, entry(1)));
        apply(&mut cache, Delta::Put(key("a"), 2, Entry { value: None, ..entry(0) }));
        assert!(values(&cache).is_empty());
        assert_eq!(cache.get(&key("a")).map(|e| e.uid.as_str()), Some("u"));
    }

    #[test]
    fn of_each_value_it_is_told_what_it_was_and_what_it_is() {
        let mut cache = Cache::default();
        let mut told = Vec::new();
        for delta in [
            Delta::Listed(key("a"), 1, entry(1)),
            Delta::Listed(key("b"), 2, entry(2)),
            Delta::End,
            Delta::Put(key("a"), 3, entry(1)),
            Delta::Put(key("a"), 4, entry(5)),
            Delta::Put(key("b"), 5, Entry { value: None, ..entry(0) }),
            Delta::Begin,
            Delta::Listed(key("c"), 6, entry(6)),
            Delta::End,
            Delta::Remove(key("c"), 7),
        ] {
            cache.apply(delta, |was, is| told.push((was.copied(), is.copied())));
        }
        let expected = [
            (None, Some(1)),
            (None, Some(2)),
            (Some(1), Some(5)),
            (Some(2), None),
            (Some(5), None),
            (None, None),
            (None, Some(6)),
            (Some(6), None),
        ];
        assert_eq!(told, expected);
    }
}
