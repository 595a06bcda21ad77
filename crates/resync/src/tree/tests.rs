//! The tree against the specification, read literally.

use afterimage_block::{Extent, Length, Offset};
use proptest::prelude::*;

use super::*;
use crate::BlockSize;
use crate::protocol::FAN_OUT;

fn grid(blocks: u64) -> Grid {
    let size = Length::new(blocks * BlockSize::MIN.get());
    Grid::new(size, BlockSize::MIN)
}

fn leaf(seed: u8) -> Node {
    if seed == 0 {
        return Node::ZERO;
    }
    Algorithm::Sha256.block(&[seed; 64])
}

/// The root as `PROTOCOL.md` tells it, and the level that it is on.
fn literal(leaves: &[Node]) -> (u8, Node) {
    let mut row = leaves.to_vec();
    let mut level = 0;
    while level == 0 || row.len() > 1 {
        level += 1;
        row = row
            .chunks(FAN_OUT)
            .map(|children| {
                if children.iter().all(Node::is_zero) {
                    return Node::ZERO;
                }
                let count = children.len().to_le_bytes()[0];
                let mut bytes = b"AIRSNODE".to_vec();
                bytes.extend([level, count, 0, 0, 0, 0, 0, 0]);
                bytes.extend(children.iter().flat_map(Node::as_bytes));
                Node::new(
                    sha2::Digest::finalize(sha2::Digest::chain_update(
                        <sha2::Sha256 as sha2::Digest>::new(),
                        bytes,
                    ))
                    .into(),
                )
            })
            .collect();
    }
    (level, row.first().copied().unwrap_or(Node::ZERO))
}

fn tree(leaves: &[Node]) -> Tree {
    let mut tree = Tree::new(Algorithm::Sha256, grid(leaves.len() as u64)).unwrap();
    for (unit, children) in leaves.chunks(FAN_OUT).enumerate() {
        tree.set_unit(unit as u64, Algorithm::Sha256.parent(1, children));
    }
    tree.settle();
    tree
}

/// How many nodes must be asked for to find what differs.
fn asked(mine: &Tree, theirs: &Tree, of: Place) -> usize {
    if of.level == 1 {
        return FAN_OUT;
    }
    let (mine_below, theirs_below) = (mine.children(of).unwrap(), theirs.children(of).unwrap());
    let first = mine.shape().children(of).unwrap().start;
    let pairs = mine_below.iter().zip(theirs_below).zip(first..);
    let level = of.level - 1;
    pairs.fold(mine_below.len(), |sum, ((a, b), index)| {
        sum + if a == b {
            0
        } else {
            asked(mine, theirs, Place { level, index })
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_root_is_that_of_the_specification(
        runs in prop::collection::vec((0..4_u8, 1..2000_usize), 0..8)
    ) {
        let leaves: Vec<Node> = runs
            .iter()
            .flat_map(|(seed, count)| std::iter::repeat_n(leaf(*seed), *count))
            .collect();
        let tree = tree(&leaves);
        prop_assert_eq!((tree.shape().top(), tree.root()), literal(&leaves));
    }

    #[test]
    fn k_differences_cost_k_paths_of_digests(
        blocks in 1..300_000_u64, at in prop::collection::vec(any::<prop::sample::Index>(), 0..5)
    ) {
        let mine = vec![leaf(1); usize::try_from(blocks).unwrap()];
        let mut theirs = mine.clone();
        for at in &at {
            theirs[at.index(mine.len())] = leaf(2);
        }
        let (mine, theirs) = (tree(&mine), tree(&theirs));
        let levels = usize::from(mine.shape().top());
        let digests = asked(&mine, &theirs, mine.shape().above_root());
        prop_assert!(digests <= 1 + at.len() * levels * FAN_OUT);
        if at.is_empty() {
            prop_assert_eq!(digests, 1);
        }
    }

    #[test]
    fn nodes_of_each_level_cover_the_disk_in_order(blocks in 0..600_000_u64) {
        let shape = Shape::new(grid(blocks));
        for level in 0..=shape.top() + 1 {
            let nodes = shape.nodes(level);
            let mut at = 0;
            for index in 0..nodes.min(5000) {
                let range = shape.blocks(Place { level, index }).unwrap();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > at && range.end <= blocks);
                at = range.end;
            }
            prop_assert!(nodes > 5000 || at == blocks);
            prop_assert_eq!(shape.blocks(Place { level, index: nodes }), None);
            prop_assert_eq!(shape.children(Place { level, index: nodes }), None);
        }
        prop_assert_eq!(shape.nodes(shape.top() + 2), 0);
    }
}

#[test]
fn a_disk_of_a_tebibyte_is_five_round_trips_deep_and_its_tree_small() {
    let grid = Grid::new(Length::new(1 << 40), BlockSize::default());
    let tree = Tree::new(Algorithm::Sha256, grid).unwrap();
    // The root, three levels of nodes, and the blocks.
    assert_eq!(tree.shape().above_root().level, 5);
    let nodes: usize = tree.levels.iter().map(Vec::len).sum();
    assert!(nodes * size_of::<Node>() < 9 << 20);
    assert!(tree.root().is_zero());
}

#[test]
fn the_largest_disk_has_a_shape_and_no_tree() {
    let grid = Grid::new(Length::new(u64::MAX), BlockSize::MIN);
    let shape = Shape::new(grid);
    assert_eq!(shape.blocks(shape.above_root()), Some(0..1 << 52));
    let last = Place {
        level: 0,
        index: (1 << 52) - 1,
    };
    assert_eq!(shape.blocks(last), Some(last.index..1 << 52));
    let beyond = Place {
        level: 1,
        index: u64::MAX,
    };
    assert_eq!((shape.blocks(beyond), shape.children(beyond)), (None, None));
    assert!(matches!(
        Tree::new(Algorithm::Sha256, grid),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn golden() {
    // Two units of ones around one of zeros, the last of one block; made by another program.
    let leaves: Vec<Node> = (0..129)
        .map(|at| leaf(u8::from(!(64..128).contains(&at))))
        .collect();
    let root = "1e318983439c91be4101104516fb80d856835a9ca6ec47f0cd5d91384f83160b";
    assert_eq!(format!("{:?}", tree(&leaves).root()), root);
}

#[test]
fn the_units_of_an_extent_are_those_that_lie_in_it() {
    let unit = 64 * 4096;
    let size = 3 * unit + 4096 + 512;
    let shape = Shape::new(Grid::new(Length::new(size), BlockSize::MIN));
    let cases = [
        (0, size, 0..4),
        (0, unit, 0..1),
        (1, unit, 1..1),
        (unit - 1, unit + 1, 1..1),
        (unit, size - 1, 1..3),
        (3 * unit, size, 3..4),
        (3 * unit + 512, size, 4..4),
        (size - 512, size, 4..4),
    ];
    for (start, end, expected) in cases {
        let extent = Extent::between(Offset::new(start), Offset::new(end)).unwrap();
        let found = shape.units_within(extent);
        assert_eq!(found, expected, "{extent}");
    }
}
