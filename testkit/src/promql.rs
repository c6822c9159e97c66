//! Selectors of `PromQL` expressions. Does not validate expressions; Prometheus does.

/// Selector of an expression, such as `up{job="a"}[5m]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// Name of the metric.
    pub metric: String,
    /// Text between the braces.
    pub matchers: String,
    /// Text between the brackets.
    pub range: Option<String>,
    /// Function of which it is the direct argument.
    pub function: Option<String>,
}

/// Words that are followed by a list of labels.
const LABEL_LISTS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Words between two operands, and one after a comparison.
const OPERATORS: [&str; 4] = ["and", "or", "unless", "bool"];

/// Selectors of an expression, in order.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    // The function, if the rest begins right after its parenthesis.
    let mut function = None;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = split_after(&rest[1..], "\"").1;
        } else if first.is_ascii_alphabetic() || first == '_' || first == ':' {
            let (word, after) = word(rest);
            let next = after.trim_start();
            let aggregates = ["by", "without"].contains(&self::word(next).0);
            if LABEL_LISTS.contains(&word) {
                rest = match next.strip_prefix('(') {
                    Some(list) => split_after(list, ")").1,
                    None => after,
                };
            } else if aggregates || OPERATORS.contains(&word) {
                rest = after;
            } else if word == "offset" {
                rest = number(next);
            } else if let Some(argument) = next.strip_prefix('(') {
                function = Some(word.to_owned());
                rest = argument;
                continue;
            } else {
                let (matchers, after) = enclosed(after, "{", "}");
                let (range, after) = enclosed(after, "[", "]");
                found.push(Selector {
                    metric: word.to_owned(),
                    matchers: matchers.unwrap_or_default().to_owned(),
                    range: range.map(str::to_owned),
                    function: function.take(),
                });
                rest = after;
            }
            function = None;
        } else if first.is_ascii_digit() {
            function = None;
            rest = number(rest);
        } else {
            if !first.is_whitespace() {
                function = None;
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    text.split_at(end.unwrap_or(text.len()))
}

/// Skips a number, a duration, or a variable of Grafana in its place.
fn number(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || ['.', '$', '_'].contains(&c))
}

fn enclosed<'a>(text: &'a str, open: &str, close: &str) -> (Option<&'a str>, &'a str) {
    match text.strip_prefix(open) {
        Some(inner) => {
            let (inner, after) = split_after(inner, close);
            (Some(inner), after)
        }
        None => (None, text),
    }
}

/// Splits a text before and after `end`, which must occur.
fn split_after<'a>(text: &'a str, end: &str) -> (&'a str, &'a str) {
    text.split_once(end)
        .unwrap_or_else(|| panic!("no {end} in {text}"))
}
