//! A map that is only looked up in.
//!
//! Names are long and begin alike, so to hash one costs less than to compare it a dozen times. The hash has no secret: the same
//! world gives the same plan, and whoever may name ten thousand objects of a cluster does not need collisions to slow it down.

/// The map. What is made of it may not depend on the order of its entries.
pub(super) type Index<K, V> = rustc_hash::FxHashMap<K, V>;
