//! Golden bytes, and what is not believed.

use proptest::prelude::*;

use super::*;
use crate::BlockSize;

const PROOF: &[u8] = b"generation 7, position 12";

fn grid(units: u64) -> Grid {
    // The last unit has one block, and that has 512 bytes.
    let blocks = units.saturating_sub(1) * 64;
    Grid::new(Length::new(blocks * 4096 + 512), BlockSize::MIN)
}

fn digests(units: &[Option<u8>]) -> Digests {
    let mut digests = Digests::unknown(Algorithm::Sha256, grid(units.len() as u64)).unwrap();
    assert_eq!(digests.units.len(), units.len());
    for (unit, byte) in digests.units.iter_mut().zip(units) {
        *unit = byte.map(|byte| Node::new([byte; 32]));
    }
    digests
}

fn decode(file: &[u8], units: u64) -> Result<Digests, DigestsError> {
    Digests::decode(file, Algorithm::Sha256, grid(units), PROOF)
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

/// With a checksum that is right.
fn summed(body: &[u8]) -> Vec<u8> {
    use digest::Digest;
    [body, &sha2::Sha256::digest(body)[..]].concat()
}

#[test]
fn golden() {
    let digests = digests(&[
        Some(0xAB),
        None,
        Some(0),
        Some(1),
        None,
        None,
        None,
        None,
        Some(9),
    ]);
    let file = digests.encode(PROOF);
    let golden = include_bytes!("../../tests/golden/version-1.digests");
    assert_eq!(file, golden);
    assert_eq!(decode(golden, 9).unwrap(), digests);
}

#[test]
fn of_what_is_written_nothing_is_known() {
    let known = |extents: &[(u64, u64)]| {
        let mut digests = Digests::of_zeros(Algorithm::Sha256, grid(4)).unwrap();
        for (at, length) in extents {
            let extent = Extent::new(Offset::new(*at), Length::new(*length)).unwrap();
            digests.invalidate(extent);
        }
        let doubt = digests.doubt().into_iter().map(|run| (run.start, run.end));
        (doubt.collect::<Vec<_>>(), digests.known().get())
    };
    let unit = 64 * 4096;
    assert_eq!(known(&[]), (vec![], 3 * unit + 512));
    assert_eq!(known(&[(unit - 1, 1)]), (vec![(0, 1)], 2 * unit + 512));
    assert_eq!(known(&[(unit - 1, 2)]), (vec![(0, 2)], unit + 512));
    assert_eq!(
        known(&[(3 * unit, 1), (0, 1)]),
        (vec![(0, 1), (3, 4)], 2 * unit)
    );
    assert_eq!(
        known(&[(3 * unit, u64::MAX - 3 * unit)]),
        (vec![(3, 4)], 3 * unit)
    );
    assert_eq!(
        known(&[(4 * unit, 9), (u64::MAX - 1, 1)]),
        (vec![], 3 * unit + 512)
    );
    assert_eq!(known(&[(0, u64::MAX)]), (vec![(0, 4)], 0));
}

#[test]
fn another_disk_or_another_time_is_stale() {
    let file = digests(&[Some(1); 4]).encode(PROOF);
    let decode = |grid, proof| Digests::decode(&file, Algorithm::Sha256, grid, proof);
    let blocks = Grid::new(grid(4).size(), BlockSize::default());
    for (grid, proof) in [
        (grid(4), &b"position 13"[..]),
        (grid(5), PROOF),
        (blocks, PROOF),
    ] {
        let error = decode(grid, proof).unwrap_err();
        assert!(matches!(error, DigestsError::Stale { .. }), "{error}");
    }
    assert!(decode(grid(4), PROOF).is_ok());
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let units = [Some(1), None, Some(0), Some(2)];
    let file = digests(&units).encode(PROOF);
    let body = &file[..file.len() - 32];
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = body.to_vec();
        change(&mut body);
        decode(&summed(&body), 4)
    };
    assert!(with(&|_| ()).is_ok());
    let changes: [Change<'_>; 10] = [
        &|body| body[11] = 1,
        &|body| body[24] = 1,
        &|body| body[64] |= 1 << 4,
        &|body| body[65] |= 1 << 4,
        &|body| body[65] |= 1 << 1,
        &|body| body[65] |= 1 << 2,
        &|body| body[66..98].fill(0),
        &|body| body.push(0),
        &|body| body.extend([7; 32]),
        &|body| body.truncate(65),
    ];
    for (number, change) in changes.iter().enumerate() {
        let error = with(change).unwrap_err();
        assert!(
            matches!(error, DigestsError::Damaged { .. }),
            "{number}: {error}"
        );
    }
    let error = with(&|body| body[8] = 2).unwrap_err();
    assert_eq!(error, DigestsError::UnknownVersion { found: 2 });
    assert_eq!(
        with(&|body| body[0] = 0).unwrap_err(),
        DigestsError::NotDigests
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn they_come_back_as_they_were_and_damage_is_noticed(
        units in prop::collection::vec(prop::option::of(0..3_u8), 1..40),
        flip in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()
    ) {
        let digests = digests(&units);
        let count = units.len() as u64;
        let mut file = digests.encode(PROOF);
        prop_assert!(file.len() as u64 <= Digests::file_max(grid(count)));
        prop_assert_eq!(decode(&file, count).unwrap(), digests);
        prop_assert!(decode(&file[..cut.index(file.len())], count).is_err());
        let at = flip.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(decode(&file, count).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_taken_without_a_panic(
        known in any::<u8>(), stored in any::<u8>(), nodes in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        let header = digests(&[None; 8]).encode(PROOF);
        let body = [&header[..64], &[known, stored], &nodes].concat();
        if let Ok(digests) = decode(&summed(&body), 8) {
            prop_assert_eq!(digests.encode(PROOF), summed(&body));
        }
    }
}
