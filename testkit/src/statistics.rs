//! Medians, ranges and ratios of the rounds of a measurement.

/// One number per round, in order. If a round has failed, so has the whole.
#[derive(Clone, Default)]
pub struct Series(pub Vec<Option<f64>>);

impl Series {
    /// Numbers, unless one is missing.
    fn numbers(&self) -> Option<Vec<f64>> {
        let mut numbers: Vec<f64> = self.0.iter().copied().collect::<Option<_>>()?;
        numbers.sort_by(f64::total_cmp);
        (!numbers.is_empty()).then_some(numbers)
    }

    pub fn median(&self) -> Option<f64> {
        let numbers = self.numbers()?;
        let middle = numbers.len() / 2;
        Some(if numbers.len() % 2 == 1 {
            numbers[middle]
        } else {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        })
    }

    pub fn range(&self) -> Option<(f64, f64)> {
        let numbers = self.numbers()?;
        Some((*numbers.first()?, *numbers.last()?))
    }

    /// Ratios within each round, since the load of the machine affects both numbers of a round.
    pub fn ratios(&self, to: &Self) -> Self {
        let pairs = self.0.iter().zip(&to.0);
        Self(
            pairs
                .map(|(this, other)| Some((*this)? / (*other)?))
                .collect(),
        )
    }
}
