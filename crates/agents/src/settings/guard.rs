//! What an edit must mean, worked out on values alone: the other half of the loss guard.
//!
//! Nothing here knows of text. The editor's result is parsed and must be equal to what comes out here.

use serde_json::{Map, Value};

use super::entry::{Entry, Ours, Place, Share};

/// The document with an entry in it.
pub(super) fn put(document: &mut Value, entry: &Entry) {
    let mut here = document;
    for (depth, key) in entry.within.iter().enumerate() {
        let is_array = depth + 1 == entry.within.len() && entry.place == Place::Element;
        let empty = if is_array { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
        let Value::Object(map) = here else { return };
        here = map.entry(key.clone()).or_insert(empty);
    }
    match (&entry.place, here) {
        (Place::Key(key), Value::Object(map)) => match map.get_mut(key) {
            None => {
                map.insert(key.clone(), entry.value.clone());
            }
            Some(found) if entry.share(found) != Share::None => merge(found, &entry.value),
            Some(_) => {}
        },
        (Place::Element, Value::Array(elements)) => {
            let first = elements.iter().position(|found| entry.share(found) == Share::All);
            if entry.ours == Ours::Value && first.is_some() {
                return;
            }
            let mut number = 0;
            elements.retain_mut(|found| {
                let is_kept = Some(number) == first || is_left(found, entry);
                number += 1;
                is_kept
            });
            // What was cut before the first moves it.
            let first = elements.iter_mut().find(|found| entry.share(found) == Share::All);
            match first {
                Some(found) => merge(found, &entry.value),
                None => elements.push(entry.value.clone()),
            }
        }
        _ => {}
    }
}

/// The document without an entry.
pub(super) fn take(document: &mut Value, entry: &Entry) {
    let mut here = document;
    for key in &entry.within {
        let Some(next) = here.get_mut(key) else { return };
        here = next;
    }
    match (&entry.place, here) {
        (Place::Key(key), Value::Object(map))
            if map.get(key).is_some_and(|found| entry.share(found) != Share::None) =>
        {
            map.shift_remove(key);
        }
        (Place::Element, Value::Array(elements)) => {
            elements.retain_mut(|found| is_left(found, entry));
        }
        _ => {}
    }
}

/// The document without containers of these paths that are empty; an empty document stays.
pub(super) fn without_empty(document: &mut Value, made: &[Vec<String>]) {
    let mut made: Vec<_> = made.iter().collect();
    made.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in made {
        let Some((last, within)) = path.split_last() else { continue };
        let parent = within.iter().try_fold(&mut *document, |here, key| here.get_mut(key));
        if let Some(Value::Object(map)) = parent {
            let is_empty = match map.get(last) {
                Some(Value::Object(inner)) => inner.is_empty(),
                Some(Value::Array(inner)) => inner.is_empty(),
                _ => false,
            };
            if is_empty {
                map.shift_remove(last);
            }
        }
    }
}

/// Takes what is ours out of an element; false when nothing else is in it.
fn is_left(found: &mut Value, entry: &Entry) -> bool {
    match entry.share(found) {
        Share::All => false,
        Share::None => true,
        Share::Some(numbers) => {
            if let Some(Value::Array(handlers)) = found.get_mut("hooks") {
                for number in numbers.into_iter().rev() {
                    handlers.remove(number);
                }
            }
            true
        }
    }
}

fn merge(found: &mut Value, wanted: &Value) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, value) in wanted {
                found.insert(key.clone(), value.clone());
            }
        }
        (found, wanted) => *found = wanted.clone(),
    }
}
