//! Changes to a JSON value, so that a fuzzer gets behind its syntax.

use arbitrary::Arbitrary;
use serde_json::Value;

/// Something done to a node, which is given by its number in the order of the text.
#[derive(Arbitrary, Clone, Debug)]
pub(super) enum Edit {
    Number {
        at: u16,
        to: u64,
    },
    Largest {
        at: u16,
        minus: u8,
    },
    Nudge {
        at: u16,
        by: i8,
    },
    Null {
        at: u16,
    },
    Text {
        at: u16,
        to: String,
    },
    /// What stands at `from` is put at `to` as well.
    Copy {
        from: u16,
        to: u16,
    },
    Remove {
        at: u16,
        child: u8,
    },
    Double {
        at: u16,
        child: u8,
    },
    Swap {
        at: u16,
        one: u8,
        other: u8,
    },
}

impl Edit {
    /// Does it, if there is such a node, and it is of a kind to which it can be done.
    pub(super) fn apply(&self, root: &mut Value) {
        match *self {
            Self::Number { at, to } => set(find(root, at), to),
            Self::Largest { at, minus } => set(find(root, at), u64::MAX - u64::from(minus % 3)),
            Self::Nudge { at, by } => {
                let found = find(root, at);
                let number = found.as_deref().and_then(Value::as_u64);
                if let Some(number) = number {
                    set(found, number.saturating_add_signed(by.into()));
                }
            }
            Self::Null { at } => set(find(root, at), Value::Null),
            Self::Text { at, ref to } => set(find(root, at), to.clone()),
            Self::Copy { from, to } => {
                if let Some(copy) = find(root, from).cloned() {
                    set(find(root, to), copy);
                }
            }
            Self::Remove { at, child } => remove(find(root, at), child.into()),
            Self::Double { at, child } => {
                if let Some((items, child)) = items(find(root, at), child) {
                    items.insert(child, items[child].clone());
                }
            }
            Self::Swap { at, one, other } => {
                if let Some((items, one)) = items(find(root, at), one) {
                    let other = usize::from(other) % items.len();
                    items.swap(one, other);
                }
            }
        }
    }
}

fn find(root: &mut Value, at: u16) -> Option<&mut Value> {
    let mut left = usize::from(at) % count(root);
    node(root, &mut left)
}

fn set(place: Option<&mut Value>, value: impl Into<Value>) {
    if let Some(place) = place {
        *place = value.into();
    }
}

fn remove(place: Option<&mut Value>, child: usize) {
    let Some(place) = place else {
        return;
    };
    if let Some(items) = place.as_array_mut().filter(|items| !items.is_empty()) {
        items.remove(child % items.len());
    } else if let Some(fields) = place.as_object_mut() {
        let name = fields.keys().nth(child % fields.len().max(1)).cloned();
        name.map(|name| fields.remove(&name));
    }
}

/// The items of a list that has any, and the number of one of them.
fn items(place: Option<&mut Value>, child: u8) -> Option<(&mut Vec<Value>, usize)> {
    let items = place?.as_array_mut().filter(|items| !items.is_empty())?;
    let child = usize::from(child) % items.len();
    Some((items, child))
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// The node that `left` nodes come before.
fn node<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| node(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|field| node(field, left)),
        _ => None,
    }
}
