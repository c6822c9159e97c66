//! The words of code and documents are those of the field, as CONTRIBUTING.md asks.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words that a program's log, a comment or a page should not need: it returns, reports, logs; and "if", not "where".
const BANNED: [&str; 3] = ["told", "tells", "where there is"];
/// Words with which a comment begins that has no subject and no verb of its own.
const QUESTIONS: [&str; 6] = ["What", "Whether", "How", "Where", "When", "Who"];
/// Comments per thousand that may begin with one of them.
const MAX_QUESTIONS_PER_MILLE: usize = 15;

/// All files below a file or folder of the repository.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| files(&path)).collect()
}

/// The text of a line of comment, without its marker.
fn comment(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("//")?;
    Some(rest.strip_prefix(['/', '!']).unwrap_or(rest))
}

/// The banned words in a text, also those that a line break divides.
fn banned_words(text: &str) -> Vec<&'static str> {
    let lines = text.lines().map(|line| comment(line).unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join(" ").to_lowercase();
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let text = format!(" {} ", words.join(" "));
    let mut found = BANNED.to_vec();
    found.retain(|banned| text.contains(&format!(" {banned} ")));
    found
}

/// Number of lines of comment in a source, and those among them that begin with a question.
fn count_questions(source: &str) -> (usize, Vec<&str>) {
    let comments: Vec<&str> = source.lines().filter_map(comment).collect();
    let begins = |text: &&str| {
        let first = text.trim_start().split(|c: char| !c.is_alphanumeric());
        text.starts_with(' ') && first.take(1).any(|word| QUESTIONS.contains(&word))
    };
    let count = comments.len();
    (count, comments.into_iter().filter(begins).collect())
}

#[test]
fn banned_words_occur_nowhere() {
    let mut found = Vec::new();
    for top in ["src", "docs", "README.md"] {
        for path in files(&testkit::repository().join(top)) {
            // Pictures have no text.
            let text = fs::read_to_string(&path).unwrap_or_default();
            let words = banned_words(&text).into_iter();
            found.extend(words.map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn few_comments_begin_with_question_words() {
    let (mut comments, mut questions) = (0, Vec::new());
    for top in ["src", "tests", "testkit", "benches", "examples"] {
        for path in files(&testkit::repository().join(top)) {
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source");
            let (count, found) = count_questions(&source);
            comments += count;
            questions.extend(
                found
                    .iter()
                    .map(|line| format!("{}:{line}", path.display())),
            );
        }
    }
    assert!(comments > 2_000, "{comments} lines of comment");
    assert!(
        questions.len() * 1000 <= comments * MAX_QUESTIONS_PER_MILLE,
        "{} of {comments}: {questions:#?}",
        questions.len()
    );
}

#[test]
fn banned_words_and_questions_are_found() {
    let source = "//! Tells nothing.\nfn f() {} // storytold\n    /// Where the\n    // told one is: where there\n    // is none.\n";
    assert_eq!(banned_words(source), BANNED);
    assert_eq!(banned_words("untold, foretells, where there are"), [""; 0]);
    let source =
        "/// What it is.\n//! Whether.\n    // Howto\n// When\n//Who\nlet what = \"// How\";\n";
    let (count, found) = count_questions(source);
    assert_eq!(
        (count, found),
        (5, vec![" What it is.", " Whether.", " When"])
    );
}
