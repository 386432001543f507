//! In what order scales lie in memory: the one index map that evaluators, kernels and hosts go by.
//!
//! With M rows and G scales a row, `m` and `g` count both. Layouts that are *tiled* have places for more rows and scales than
//! there are; what is there is 0.

use serde::{Deserialize, Serialize};

use crate::{DType, Dim, Shape};

/// In what order scales lie in memory. `M4` is M, rounded up to a multiple of 4, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleLayout {
    /// `s[m*G + g]`.
    #[default]
    RowMajor,
    /// `s[g*M + m]`.
    ColumnMajor,
    /// `s[g*M4 + m]`.
    TmaAligned,
    /// Four exponents in each i32, the first in its low byte, and the words by aligned columns: `s[(g/4*M4 + m)*4 + g%4]`
    /// in bytes. The result is i32, `G4 / 4` words a row. (DeepGEMM on Blackwell.)
    PackedUe8m0,
    /// Tiles of 128 rows by 4: `s[(m/128*(G4/4) + g/4)*512 + m%32*16 + m%128/32*4 + g%4]`. The result is `[M128, G4]`.
    /// (cuBLASLt and CUTLASS, MXFP8, MXFP4 and NVFP4.)
    #[serde(rename = "swizzle_128x4")]
    Swizzle128x4,
    /// Tiles of 32 rows by 8: `s[m/32*32*G8 + g/8*256 + g%4*64 + m%16*4 + g%8/4*2 + m%32/16]`. The result is `[M32, G8]`.
    /// (aiter's MXFP4 products; where they want more rows, those are 0 behind these.)
    #[serde(rename = "shuffle_32x8")]
    Shuffle32x8,
}

impl ScaleLayout {
    /// Every layout.
    pub const ALL: [Self; 6] =
        [Self::RowMajor, Self::ColumnMajor, Self::TmaAligned, Self::PackedUe8m0, Self::Swizzle128x4, Self::Shuffle32x8];

    /// What rows and scales a row are rounded up to.
    const fn tile(self) -> (u64, u64) {
        match self {
            Self::RowMajor | Self::ColumnMajor => (1, 1),
            Self::TmaAligned => (4, 1),
            Self::PackedUe8m0 => (4, 4),
            Self::Swizzle128x4 => (128, 4),
            Self::Shuffle32x8 => (32, 8),
        }
    }

    /// True if there are places behind the scales of a row that belong to it, which are 0: bytes, in an order of their own.
    pub const fn is_tiled(self) -> bool {
        matches!(self, Self::PackedUe8m0 | Self::Swizzle128x4 | Self::Shuffle32x8)
    }

    /// Rows and scales a row in memory, where there are so many; `None` if that is more than fits.
    pub fn extents(self, rows: u64, groups: u64) -> Option<(u64, u64)> {
        let (r, g) = self.tile();
        let held = (rows.checked_next_multiple_of(r)?, groups.checked_next_multiple_of(g)?);
        held.0.checked_mul(held.1).map(|_| held)
    }

    /// Elements of the result in memory: scales, or words of four. `None` if they are more than fit.
    pub fn held(self, rows: u64, groups: u64) -> Option<u64> {
        let (rows, across) = self.extents(rows, groups)?;
        Some(if self == Self::PackedUe8m0 { rows * across / 4 } else { rows * across })
    }

    /// True if the bytes in memory are those of the row-major tensor of the result's shape.
    pub const fn is_in_order(self) -> bool {
        matches!(self, Self::RowMajor | Self::Swizzle128x4 | Self::Shuffle32x8)
    }

    /// Where the scale `group` of `row` lies, in scales from the first one, among `rows` of `groups`.
    pub const fn index(self, (row, group): (u64, u64), (rows, groups): (u64, u64)) -> u64 {
        let (m, g) = (row, group);
        match self {
            Self::RowMajor => m * groups + g,
            Self::ColumnMajor => g * rows + m,
            Self::TmaAligned => g * rows.next_multiple_of(4) + m,
            Self::PackedUe8m0 => (g / 4 * rows.next_multiple_of(4) + m) * 4 + g % 4,
            Self::Swizzle128x4 => (m / 128 * groups.div_ceil(4) + g / 4) * 512 + m % 32 * 16 + m % 128 / 32 * 4 + g % 4,
            Self::Shuffle32x8 => {
                let across = m / 32 * 32 * groups.next_multiple_of(8) + g / 8 * 256;
                across + g % 4 * 64 + m % 16 * 4 + g % 8 / 4 * 2 + m % 32 / 16
            }
        }
    }

    /// The bytes of a result of a tiled layout from those of row-major scales of a byte: words are row-major, as strides say
    /// where they lie.
    pub fn tiled(self, scales: &[u8], rows: u64, groups: u64) -> Option<Vec<u8>> {
        let (held, across) = self.extents(rows, groups)?;
        let words = self == Self::PackedUe8m0;
        let mut bytes = vec![0; usize::try_from(if words { rows } else { held }.checked_mul(across)?).ok()?];
        for (i, scale) in scales.iter().enumerate() {
            let at = (i as u64 / groups.max(1), i as u64 % groups.max(1));
            let to = if words { at.0 * across + at.1 } else { self.index(at, (rows, groups)) };
            *bytes.get_mut(usize::try_from(to).ok()?)? = *scale;
        }
        Some(bytes)
    }

    /// Dtype of the result for scales of a dtype.
    pub const fn dtype(self, scale: DType) -> DType {
        if matches!(self, Self::PackedUe8m0) { DType::I32 } else { scale }
    }

    /// The shape of the result, for rows of these leading sizes and scales a row.
    pub fn shape(self, leading: &[Dim], groups: &Dim) -> Vec<Dim> {
        let up = |d: &Dim, by: u64| {
            let by = Dim::from(by as i64);
            &d.ceil_div(&by) * &by
        };
        let (r, g) = self.tile();
        match self {
            Self::RowMajor | Self::ColumnMajor | Self::TmaAligned => [leading, std::slice::from_ref(groups)].concat(),
            Self::PackedUe8m0 => {
                let words = (groups + &Dim::from(3)).floor_div(&Dim::from(4));
                [leading, &[words]].concat()
            }
            Self::Swizzle128x4 | Self::Shuffle32x8 => vec![up(&Dim::product(leading), r), up(groups, g)],
        }
    }

    /// Strides in elements of a result of a shape, tokens first and scales or words last; `None` if they are those of the
    /// shape.
    pub fn strides(self, shape: &[Dim]) -> Option<Vec<Dim>> {
        let (_, tokens) = shape.split_last()?;
        let m = tokens.iter().fold(Dim::from(1), |m, d| &m * d);
        let step = match self {
            Self::RowMajor | Self::Swizzle128x4 | Self::Shuffle32x8 => return None,
            Self::ColumnMajor => m,
            Self::TmaAligned | Self::PackedUe8m0 => &(&m + &Dim::from(3)).floor_div(&Dim::from(4)) * &Dim::from(4),
        };
        // A column holds one scale of every row, in row order: the rows' own strides, then the step between columns.
        let mut strides = Shape(tokens.to_vec()).row_major_strides();
        strides.push(step);
        Some(strides)
    }

    /// In words, after `scales`; `None` for the usual one.
    pub(super) const fn words(self) -> Option<&'static str> {
        Some(match self {
            Self::RowMajor => return None,
            Self::ColumnMajor => "column-major",
            Self::TmaAligned => "column-major, columns aligned to 4",
            Self::PackedUe8m0 => "four in a word, words column-major, columns aligned to 4",
            Self::Swizzle128x4 => "in tiles of 128x4",
            Self::Shuffle32x8 => "in tiles of 32x8",
        })
    }

    /// Checks that scales of a dtype can lie so: a byte each, of groups.
    pub(super) fn check(self, dtype: DType, grouped: bool) -> Result<(), String> {
        if !self.is_tiled() {
            return Ok(());
        }
        let fits = match self {
            Self::PackedUe8m0 => matches!(dtype, DType::F8E8M0 | DType::U8),
            _ => matches!(dtype, DType::F8E8M0 | DType::U8 | DType::F8E4M3FN),
        };
        if !fits {
            return Err(format!("layout: tiles are of scales of a byte, found {dtype}"));
        }
        if grouped { Ok(()) } else { Err("layout: tiles are of scales of groups, found others".into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `index` of a tiled layout by what the consumers' own scripts do with a padded tensor: view, permute, view.
    fn permuted(held: (u64, u64), view: &[u64], axes: &[usize]) -> Vec<u64> {
        let mut steps = vec![1; view.len()];
        for i in (0..view.len() - 1).rev() {
            steps[i] = steps[i + 1] * view[i + 1];
        }
        let sizes: Vec<u64> = axes.iter().map(|a| view[*a]).collect();
        let total = held.0 * held.1;
        assert_eq!(sizes.iter().product::<u64>(), total);
        // Where each place of the result comes from.
        let from = |to: u64| {
            let (mut rest, mut from) = (to, 0);
            for (axis, size) in axes.iter().zip(&sizes).rev() {
                from += rest % size * steps[*axis];
                rest /= size;
            }
            from
        };
        (0..total).map(from).collect()
    }

    #[test]
    fn tiles_are_those_of_their_consumers() {
        for (rows, groups) in [(1, 1), (3, 8), (31, 9), (32, 16), (130, 5), (256, 7), (300, 33)] {
            for layout in [ScaleLayout::Swizzle128x4, ScaleLayout::Shuffle32x8] {
                let held = layout.extents(rows, groups).unwrap();
                let (view, axes): (Vec<u64>, &[usize]) = match layout {
                    // torchao's `to_blocked`; aiter's `e8m0_shuffle`.
                    ScaleLayout::Swizzle128x4 => (vec![held.0 / 128, 4, 32, held.1 / 4, 4], &[0, 3, 2, 1, 4]),
                    _ => (vec![held.0 / 32, 2, 16, held.1 / 8, 2, 4], &[0, 3, 5, 2, 4, 1]),
                };
                for (to, from) in permuted(held, &view, axes).into_iter().enumerate() {
                    let at = (from / held.1, from % held.1);
                    assert_eq!(layout.index(at, (rows, groups)), to as u64, "{layout:?} {rows}x{groups} {at:?}");
                }
            }
        }
    }

    /// As numerics.md has them, written out once more.
    #[test]
    fn every_scale_has_a_place_of_its_own() {
        for (rows, groups) in [(1, 1), (2, 3), (5, 4), (33, 9), (128, 4), (129, 12)] {
            for layout in ScaleLayout::ALL {
                let (held, across) = layout.extents(rows, groups).unwrap();
                let mut places = BTreeSet::new();
                for m in 0..rows {
                    for g in 0..groups {
                        let place = layout.index((m, g), (rows, groups));
                        assert!(place < held * across && places.insert(place), "{layout:?} {m} {g}");
                        let m4 = rows.div_ceil(4) * 4;
                        let want = match layout {
                            ScaleLayout::RowMajor => m * groups + g,
                            ScaleLayout::ColumnMajor => g * rows + m,
                            ScaleLayout::TmaAligned => g * m4 + m,
                            ScaleLayout::PackedUe8m0 => 4 * ((g >> 2) * m4 + m) + (g & 3),
                            ScaleLayout::Swizzle128x4 => {
                                let kt = groups.div_ceil(4);
                                ((m / 128) * kt + g / 4) * 512 + (m % 32) * 16 + ((m / 32) % 4) * 4 + g % 4
                            }
                            ScaleLayout::Shuffle32x8 => {
                                let sn = groups.div_ceil(8) * 8;
                                (m / 32) * 32 * sn
                                    + (g / 8) * 256
                                    + (g % 4) * 64
                                    + (m % 16) * 4
                                    + ((g % 8) / 4) * 2
                                    + (m % 32) / 16
                            }
                        };
                        assert_eq!(place, want, "{layout:?} {m} {g}");
                    }
                }
            }
        }
    }

    #[test]
    fn results_have_the_padded_extents_and_zeros_in_them() {
        let (rows, groups) = (Dim::sym("m"), Dim::from(5));
        let shape = |layout: ScaleLayout| Shape(layout.shape(&[Dim::from(2), rows.clone()], &groups)).to_string();
        assert_eq!(shape(ScaleLayout::TmaAligned), "[2, m, 5]");
        assert_eq!(shape(ScaleLayout::PackedUe8m0), "[2, m, 2]");
        assert_eq!(shape(ScaleLayout::Swizzle128x4), "[128*floordiv(2*m + 127, 128), 8]");
        assert_eq!(shape(ScaleLayout::Shuffle32x8), "[32*floordiv(2*m + 31, 32), 8]");
        for layout in [ScaleLayout::PackedUe8m0, ScaleLayout::Swizzle128x4, ScaleLayout::Shuffle32x8] {
            let scales: Vec<u8> = (1..=15).collect();
            let bytes = layout.tiled(&scales, 3, 5).unwrap();
            let (held, across) = layout.extents(3, 5).unwrap();
            let held = if layout == ScaleLayout::PackedUe8m0 { 3 } else { held };
            assert_eq!(bytes.len() as u64, held * across);
            assert_eq!(bytes.iter().filter(|b| **b != 0).count(), 15, "{layout:?}");
            assert!(layout.tiled(&[], 0, 5).unwrap().is_empty());
        }
        assert_eq!(ScaleLayout::PackedUe8m0.tiled(&[1, 2, 3, 4, 5], 1, 5).unwrap(), [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(ScaleLayout::Swizzle128x4.extents(u64::MAX, 1), None);
    }
}
