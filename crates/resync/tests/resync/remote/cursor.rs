//! Cursors that are not to be believed, and when they are saved.

use afterimage_block::{BlockRead, Epoch};
use afterimage_resync::Error;
use afterimage_resync::protocol::{Message, Role};
use afterimage_resync::remote::{Cursor, Outcome, Source, Target, Terms, Work};

use super::hostile::{BLOCK, hello, settle, zeroes};
use super::pair::{ALL, End, Machine, Pair, filled, terms};

#[test]
fn a_cursor_of_another_end_or_that_contradicts_itself_is_refused() {
    let block = BLOCK;
    let (source, target) = (filled(200, block, |_| 1), filled(200, block, |_| 2));
    let mut pair = Pair::new(&source, &target, block, 3);
    pair.run(ALL).unwrap();
    let cursor = pair.source.cursor.clone().unwrap();
    assert!(matches!(
        Target::new(*cursor.terms(), Some(cursor.clone())),
        Err(Error::InvalidCursor { .. })
    ));
    let epoch = Epoch::new(4);
    let later = Terms {
        epoch,
        ..*cursor.terms()
    };
    assert!(matches!(
        Source::new(later, Some(cursor.clone())),
        Err(Error::InvalidCursor { .. })
    ));

    let stored = serde_json::to_value(&cursor).unwrap();
    let with = |place: &str, value: serde_json::Value| {
        let mut stored = stored.clone();
        *stored.pointer_mut(place).unwrap() = value;
        serde_json::from_value::<Cursor>(stored)
    };
    let digits = stored["units"].as_str().unwrap();
    assert!(with("/units", digits.into()).is_ok());
    assert!(with("/units", digits[1..].into()).is_err());
    assert!(with("/units", digits[64..].into()).is_err());
    assert!(with("/units", digits.replace(&digits[..1], "x").into()).is_err());
    let resumes_at = |doubt| with("/doubt", doubt).unwrap().resumes_at().get();
    assert_eq!(resumes_at(serde_json::json!([[0, 4]])), 0);
    assert_eq!(resumes_at(serde_json::json!([[2, 3]])), 2 * 64 * 4096);
    assert_eq!(resumes_at(serde_json::json!([[3, 4]])), 3 * 64 * 4096);
    assert_eq!(resumes_at(serde_json::json!([])), source.size().get());
    for doubt in [
        [[0, 5], [5, 5]],
        [[2, 1], [3, 4]],
        [[1, 3], [2, 4]],
        [[0, 1], [3, 9]],
    ] {
        assert!(with("/doubt", serde_json::json!(doubt)).is_err());
    }
}

#[test]
fn a_cursor_does_not_know_of_changes_that_are_still_to_be_made() {
    let disk = filled(64 * 70, BLOCK, |_| 1);
    let terms = terms(disk.size(), BLOCK);
    let mut end = End::new(Target::new(terms, None).unwrap(), disk, None, BLOCK);
    end.machine
        .message(Message::Hello(hello(Role::Source, &terms)))
        .unwrap();
    settle(&mut end).unwrap();
    let units = |cursor: &Option<Cursor>| {
        let stored = serde_json::to_value(cursor.as_ref().unwrap()).unwrap();
        (
            stored["units"].as_str().unwrap().to_owned(),
            stored["doubt"].clone(),
        )
    };
    let (before, _) = units(&end.cursor);
    end.machine.message(zeroes(0, 64)).unwrap();
    end.machine.message(zeroes(40 * 64, 64)).unwrap();
    assert_eq!(end.machine.work(), Some(Work::Flush));
    end.machine.outcome(Outcome::Flushed).unwrap();
    let Some(Work::Save(cursor)) = end.machine.work() else {
        panic!("it writes what no cursor doubts");
    };
    // Neither is made; the first is in doubt, the second is as it was.
    assert_eq!(units(&Some(cursor)), (before, serde_json::json!([[0, 16]])));
}
