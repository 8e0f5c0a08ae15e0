//! A hash map that grows and shrinks in small steps.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// Tables that the entries are spread over. One of them moves its entries when it grows or shrinks, so
/// nothing holds up a turn for longer than this part of the map takes.
const TABLES: usize = 256;

/// A table shrinks when it has room for as many times what it holds.
const SHRINK_FACTOR: usize = 8;

/// Entries for which a table always may have room.
const ROOM_MIN: usize = 16;

/// Like the standard `HashMap` with its keyed hash, for maps that a peer can fill: it never moves all
/// entries at once, and gives memory back when they are gone. A value should be small or boxed, since
/// tables have room for up to eight times what they hold.
pub struct SpreadMap<K, V> {
    hasher: RandomState,
    tables: Box<[HashTable<(K, V)>]>,
    len: usize,
}

impl<K, V> Default for SpreadMap<K, V> {
    fn default() -> SpreadMap<K, V> {
        let tables = (0..TABLES).map(|_| HashTable::new()).collect();
        SpreadMap { hasher: RandomState::new(), tables, len: 0 }
    }
}

/// The table of a hash: by bits that a table does not look at itself before it has millions of entries.
fn table_of(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

impl<K: Hash + Eq, V> SpreadMap<K, V> {
    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let entry = self.tables[table_of(hash)].find(hash, |(known, _)| known.borrow() == key);
        entry.map(|(_, value)| value)
    }

    /// The value of `key`, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let entry = self.tables[table_of(hash)].find_mut(hash, |(known, _)| known.borrow() == key);
        entry.map(|(_, value)| value)
    }

    /// The value of `key`, which is made where there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce(&K) -> V) -> &mut V {
        let SpreadMap { hasher, tables, len } = self;
        let hash = hasher.hash_one(&key);
        let table = &mut tables[table_of(hash)];
        let entry =
            table.entry(hash, |(known, _)| *known == key, |(known, _)| hasher.hash_one(known));
        let entry = entry.or_insert_with(|| {
            *len += 1;
            let value = make(&key);
            (key, value)
        });
        &mut entry.into_mut().1
    }

    /// Takes the entry of `key` out; the table may become smaller.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let table = &mut self.tables[table_of(hash)];
        let found = table.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        let ((_, value), _) = found.remove();
        self.len -= 1;
        // One that holds nothing has no room: it would keep a page of the allocator from those who have it back,
        // since it was made among what has gone with its entries.
        if table.is_empty() {
            *table = HashTable::new();
            return Some(value);
        }
        // Down to a quarter of its room: as many must leave or come before it is changed again.
        if table.capacity() > ROOM_MIN && table.len() < table.capacity() / SHRINK_FACTOR {
            let hasher = &self.hasher;
            table.shrink_to((2 * table.len()).max(ROOM_MIN / 2), |(known, _)| {
                hasher.hash_one(known)
            });
        }
        Some(value)
    }

    /// Entries for which there is room without growing.
    #[cfg(test)]
    fn room(&self) -> usize {
        self.tables.iter().map(HashTable::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::Entropy;

    #[test]
    fn it_is_a_map() {
        let mut seed = 7_u32;
        let mut entropy = Entropy::new(move |page| {
            for byte in page {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (seed >> 24) as u8;
            }
        });
        let (mut map, mut model) = (SpreadMap::default(), HashMap::new());
        for step in 0..20_000_u32 {
            let [kind, low, high] = entropy.bytes();
            let key = format!("{}", u16::from_le_bytes([low, high % 8]));
            match kind % 4 {
                0 | 1 => {
                    let value = *map.get_or_insert_with(key.clone(), |_| step);
                    assert_eq!(value, *model.entry(key).or_insert(step));
                }
                2 => assert_eq!(map.remove(&*key), model.remove(&key)),
                _ => {
                    if let Some(value) = map.get_mut(&*key) {
                        *value += 1;
                    }
                    model.entry(key.clone()).and_modify(|value| *value += 1);
                    assert_eq!(map.get(&*key), model.get(&key));
                }
            }
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        }
        assert!(model.iter().all(|(key, value)| map.get(&**key) == Some(value)));
    }

    #[test]
    fn room_is_given_back_as_entries_leave() {
        let mut map = SpreadMap::default();
        for key in 0..100_000_u32 {
            map.get_or_insert_with(key, |_| ());
        }
        assert!(map.room() >= 100_000);
        for key in 0..100_000 {
            assert!(map.get(&key).is_some());
            map.remove(&key);
            assert!(map.room() <= (map.len() + ROOM_MIN * TABLES) * 2 * SHRINK_FACTOR);
        }
        assert_eq!(map.room(), 0);
    }

    #[test]
    fn a_step_moves_a_small_part_of_it() {
        let mut map = SpreadMap::default();
        for key in 0..100_000_u32 {
            map.get_or_insert_with(key, |_| ());
        }
        let largest = map.tables.iter().map(HashTable::len).max().expect("there are tables");
        assert!(largest < 2 * 100_000 / TABLES, "{largest}");
    }
}
