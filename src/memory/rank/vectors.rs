//! Embedding vectors with one byte per dimension, and their cosine similarity.
//!
//! Only the direction matters, so a vector is scaled until its largest number is 127 and rounded.
//! The cosine of two such vectors differs from the exact one by less than 0.01.

/// A vector of signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedVector(Box<[u8]>);

impl QuantizedVector {
    pub fn quantize(numbers: &[f32]) -> Self {
        let largest = numbers.iter().fold(0.0_f32, |max, number| max.max(number.abs()));
        let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        // `scale` keeps the rounded numbers between -127 and 127, so the cast is exact.
        let byte = |number: &f32| ((number * scale).round() as i8).to_ne_bytes()[0];
        Self(numbers.iter().map(byte).collect())
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has no direction, as for a text without a vector of its own.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// From -1 to 1. `None` if the lengths differ, because the vectors are of different models, or
    /// if one of them is zero.
    pub fn cosine_similarity(&self, other: &Self) -> Option<f32> {
        if self.0.len() != other.0.len() {
            return None;
        }
        // Exact in i64 for any length in use; sums of f32 would depend on the order of additions.
        let (mut dot, mut own, mut others) = (0_i64, 0_i64, 0_i64);
        for (a, b) in self.0.iter().zip(&other.0) {
            let (a, b) = (i32::from(a.cast_signed()), i32::from(b.cast_signed()));
            dot += i64::from(a * b);
            own += i64::from(a * a);
            others += i64::from(b * b);
        }
        let length = (own as f32).sqrt() * (others as f32).sqrt();
        (length > 0.0).then(|| dot as f32 / length)
    }
}

/// Combines word scores and similarities with equal weight: each score divided by the highest, plus
/// the similarity scaled so that the nearest passage counts 1 and the farthest 0. A passage without
/// a vector counts like the mean. Scores stay unchanged if no passage has a vector.
pub fn blend_scores(scores: &mut Vec<f32>, similarities: &[Option<f32>]) {
    let known = || similarities.iter().flatten().copied();
    let min = known().fold(f32::MAX, f32::min);
    let max = known().fold(f32::MIN, f32::max);
    // Also the case without any vector, where the bounds are reversed.
    if max <= min {
        return;
    }
    // Word scores are empty if no word matched; similarity alone decides then.
    scores.resize(similarities.len(), 0.0);
    let highest = scores.iter().copied().fold(0.0_f32, f32::max);
    let mean = known().sum::<f32>() / known().count() as f32;
    for (score, similarity) in scores.iter_mut().zip(similarities) {
        let by_words = if highest > 0.0 { *score / highest } else { 0.0 };
        *score = by_words + (similarity.unwrap_or(mean) - min) / (max - min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantization_keeps_direction() {
        let angle = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            QuantizedVector::quantize(&[0.03 * cos, 0.03 * sin])
        };
        let cosine = |degrees: f32| angle(10.0).cosine_similarity(&angle(10.0 + degrees)).unwrap();
        for degrees in [0.0_f32, 30.0, 90.0, 180.0] {
            assert!((cosine(degrees) - degrees.to_radians().cos()).abs() < 0.01, "{degrees}");
        }
        assert_eq!(
            angle(1.0).cosine_similarity(&QuantizedVector::quantize(&[1.0, 2.0, 3.0])),
            None
        );
        assert_eq!(QuantizedVector::from_bytes(angle(5.0).as_bytes()), angle(5.0));
    }

    #[test]
    fn similarity_weighs_as_much_as_words() {
        let mut scores = vec![8.0, 4.0, 0.0, 0.0];
        blend_scores(&mut scores, &[Some(0.1), Some(0.3), Some(0.5), None]);
        let expected = [1.0_f32, 1.0, 1.0, 0.5];
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{scores:?}");
        let mut only_words = vec![8.0, 4.0];
        blend_scores(&mut only_words, &[None, None]);
        assert_eq!(only_words, [8.0, 4.0]);
        let mut only_meaning = Vec::new();
        blend_scores(&mut only_meaning, &[Some(-0.5), Some(0.5)]);
        assert_eq!(only_meaning, [0.0, 1.0]);
    }
}
