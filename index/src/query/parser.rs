//! Query text → query tree.
//!
//! ```text
//! rust database              either word, in any indexed text or keyword field
//! title:rust  tag:db         in one field                    +rust -java   needed, excluded
//! "to be or not"~2           a phrase, words up to 2 moves apart
//! a AND b OR NOT c           AND binds tighter than OR       (a b) title:(a b)
//! a && b || !c               the same three, as some write them
//! year:[1990 TO 2000}        a range, [ ] with and { } without its end, * for open; year:>=1990
//! tag: IN [db search]        any of                          hob*  a prefix     tag:*  any value
//! rust^2                     counts double                   * or nothing: every document
//! \+ \" \:                   a backslash takes the next character as it is
//! ```
//!
//! One pass over the text with a stack of open groups; nothing recurses on the input.

mod value;

use crate::query::Query;
use crate::schema::{FieldId, Schema};

/// Open parentheses at most.
pub const DEPTH_MAX: usize = 30;
/// Words, phrases, ranges and values at most.
pub const CLAUSES_MAX: usize = 1024;
/// Fields asked at most, all clauses without a field of their own together: with 1,024 words and 1,000 fields one query's
/// tree took 385 MB.
pub const ASKED_MAX: usize = 64 << 10;
/// Bytes of text at most.
pub const QUERY_BYTES_MAX: usize = 32 << 10;

/// A query text that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct SyntaxError {
    /// Where, in bytes from the start.
    pub position: usize,
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
}

/// Reads a query for documents of this schema.
pub fn parse(text: &str, schema: &Schema) -> Result<Query, SyntaxError> {
    if text.len() > QUERY_BYTES_MAX {
        let reason = format!("the query has {} bytes, at most {QUERY_BYTES_MAX} are allowed", text.len());
        return Err(SyntaxError { position: 0, column: 1, reason });
    }
    let mut parser = Parser { text, at: 0, schema, clauses: 0, asked: 0 };
    parser.run().map_err(|Problem { at, reason }| {
        let column = text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        SyntaxError { position: at, column, reason }
    })
}

struct Problem {
    at: usize,
    reason: String,
}

type Parsed<T> = Result<T, Problem>;

fn problem<T>(at: usize, reason: impl Into<String>) -> Parsed<T> {
    Err(Problem { at, reason: reason.into() })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Occur {
    Should,
    Must,
    MustNot,
}

/// How a clause is tied to the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tie {
    None,
    And,
    Or,
}

struct Clause {
    tie: Tie,
    occur: Occur,
    query: Query,
}

/// A group that is open: the whole text, or a pair of parentheses.
struct Group {
    field: Option<FieldId>,
    clauses: Vec<Clause>,
    /// What was said about the next clause.
    tie: Tie,
    occur: Occur,
    /// An operator or sign that still wants its clause.
    wanting: Option<usize>,
    opened_at: usize,
}

impl Group {
    fn new(field: Option<FieldId>, opened_at: usize) -> Group {
        Group { field, clauses: Vec::new(), tie: Tie::None, occur: Occur::Should, wanting: None, opened_at }
    }

    fn push(&mut self, query: Query) {
        self.clauses.push(Clause { tie: self.tie, occur: self.occur, query });
        (self.tie, self.occur, self.wanting) = (Tie::None, Occur::Should, None);
    }

    /// The group as one query: clauses tied by AND stand together, then all are put side by side.
    fn finish(self) -> Query {
        let mut conjunctions: Vec<Vec<Clause>> = Vec::new();
        for clause in self.clauses {
            match conjunctions.last_mut() {
                Some(last) if clause.tie == Tie::And => last.push(clause),
                _ => conjunctions.push(vec![clause]),
            }
        }
        let mut outer = Vec::with_capacity(conjunctions.len());
        for mut conjunction in conjunctions {
            if conjunction.len() == 1 {
                let clause = conjunction.remove(0);
                outer.push((clause.occur, clause.query));
                continue;
            }
            let needed = |clause: Clause| match clause.occur {
                Occur::MustNot => (Occur::MustNot, clause.query),
                _ => (Occur::Must, clause.query),
            };
            outer.push((Occur::Should, combine(conjunction.into_iter().map(needed).collect())));
        }
        combine(outer)
    }
}

fn combine(mut clauses: Vec<(Occur, Query)>) -> Query {
    if clauses.len() == 1 && clauses[0].0 != Occur::MustNot {
        return clauses.remove(0).1;
    }
    let (mut must, mut should, mut must_not) = (Vec::new(), Vec::new(), Vec::new());
    for (occur, query) in clauses {
        match occur {
            Occur::Must => must.push(query),
            Occur::Should => should.push(query),
            Occur::MustNot => must_not.push(query),
        }
    }
    if must.is_empty() && should.is_empty() {
        must.push(Query::All);
    }
    Query::Bool { must, should, must_not }
}

/// A word as read: escapes resolved.
struct Word {
    text: String,
    /// Ended in an unescaped `*`, which is not part of `text`.
    star: bool,
    /// Whether anything in it was escaped: then it is no keyword.
    escaped: bool,
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    schema: &'t Schema,
    clauses: usize,
    /// Fields that clauses without one were put to.
    asked: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn skip_spaces(&mut self) {
        while let Some(c) = self.peek().filter(|c| c.is_whitespace()) {
            self.at += c.len_utf8();
        }
    }

    fn count(&mut self, at: usize) -> Parsed<()> {
        self.clauses += 1;
        if self.clauses > CLAUSES_MAX {
            return problem(at, format!("more than {CLAUSES_MAX} clauses"));
        }
        Ok(())
    }

    fn run(&mut self) -> Parsed<Query> {
        let mut stack = vec![Group::new(None, 0)];
        loop {
            self.skip_spaces();
            let at = self.at;
            let Some(next) = self.peek() else { break };
            let group = stack.last_mut().expect("the outermost group stays");
            match next {
                '(' => {
                    self.at += 1;
                    let field = group.field;
                    self.open(&mut stack, field, at)?;
                }
                ')' => {
                    self.at += 1;
                    if stack.len() == 1 {
                        return problem(at, "this parenthesis closes nothing");
                    }
                    let group = stack.pop().expect("just counted");
                    check_complete(&group)?;
                    if group.clauses.is_empty() {
                        return problem(group.opened_at, "empty parentheses");
                    }
                    let query = group.finish();
                    let query = self.boosted(query)?;
                    stack.last_mut().expect("the outermost group stays").push(query);
                }
                '+' | '-' => {
                    self.at += 1;
                    if group.occur != Occur::Should {
                        return problem(at, format!("{next:?} follows another sign or NOT"));
                    }
                    if self.peek().is_none_or(char::is_whitespace) {
                        return problem(
                            at,
                            format!("{next:?} stands alone; put it before a word, or in quotes"),
                        );
                    }
                    group.occur = if next == '+' { Occur::Must } else { Occur::MustNot };
                    group.wanting = Some(at);
                }
                _ => self.clause(&mut stack)?,
            }
        }
        if stack.len() > 1 {
            return problem(stack[stack.len() - 1].opened_at, "this parenthesis is never closed");
        }
        let group = stack.pop().expect("the outermost group");
        check_complete(&group)?;
        Ok(if group.clauses.is_empty() { Query::All } else { group.finish() })
    }

    fn open(&mut self, stack: &mut Vec<Group>, field: Option<FieldId>, at: usize) -> Parsed<()> {
        if stack.len() > DEPTH_MAX {
            return problem(at, format!("parentheses are nested more than {DEPTH_MAX} deep"));
        }
        stack.push(Group::new(field, at));
        Ok(())
    }

    /// A word, a phrase, an operator, or what follows `field:`.
    fn clause(&mut self, stack: &mut Vec<Group>) -> Parsed<()> {
        let at = self.at;
        let group = stack.last_mut().expect("the outermost group stays");
        let mut field = group.field;
        if matches!(self.peek(), Some('"' | '[' | '{' | '>' | '<')) && field.is_some() {
            let query = self.value(field, at)?;
            let query = self.boosted(query)?;
            stack.last_mut().expect("the outermost group stays").push(query);
            return Ok(());
        }
        match self.peek() {
            Some('"') => {}
            Some('[' | '{') => {
                return problem(at, "a range needs a field in front, like year:[1990 TO 2000]");
            }
            Some(c @ (']' | '}' | ':' | '^' | '~')) => {
                return problem(
                    at,
                    format!("{c:?} makes no sense here; put it in quotes, or a backslash before it"),
                );
            }
            Some('!') if self.text[at + 1..].starts_with(|c: char| !c.is_whitespace() && c != '!') => {
                self.at += 1;
                return not(group, at);
            }
            _ => {
                let word = self.word(false)?;
                if self.take(':') {
                    if word.star || word.text.is_empty() {
                        return problem(at, "a field's name is expected before the colon");
                    }
                    field = Some(self.field(&word.text, at)?);
                    self.skip_spaces();
                    if self.peek() == Some('(') {
                        let opened_at = self.at;
                        self.at += 1;
                        return self.open(stack, field, opened_at);
                    }
                    let value_at = self.at;
                    let query = self.value(field, value_at)?;
                    let query = self.boosted(query)?;
                    stack.last_mut().expect("the outermost group stays").push(query);
                    return Ok(());
                }
                let operator = (!word.star && !word.escaped).then_some(word.text.as_str());
                match operator {
                    Some("AND" | "OR" | "&&" | "||") => {
                        let and = matches!(operator, Some("AND" | "&&"));
                        if group.clauses.is_empty() || group.wanting.is_some() {
                            return problem(at, format!("{} has nothing on its left", word.text));
                        }
                        group.tie = if and { Tie::And } else { Tie::Or };
                        group.wanting = Some(at);
                        return Ok(());
                    }
                    Some("NOT") => return not(group, at),
                    _ => {}
                }
                self.count(at)?;
                let query = self.word_query(field, &word, at)?;
                let query = self.boosted(query)?;
                stack.last_mut().expect("the outermost group stays").push(query);
                return Ok(());
            }
        }
        let query = self.value(field, at)?;
        let query = self.boosted(query)?;
        stack.last_mut().expect("the outermost group stays").push(query);
        Ok(())
    }

    fn field(&self, name: &str, at: usize) -> Parsed<FieldId> {
        if let Some(field) = self.schema.find(name) {
            return Ok(field);
        }
        let near = self.schema.fields().iter().map(|field| (distance(name, &field.name), &field.name));
        // Half of a short name is no longer the name that was meant.
        let near_enough = name.chars().count() / 2;
        let hint = match near.min().filter(|(distance, _)| *distance <= near_enough.min(2)) {
            Some((_, near)) => format!("; did you mean {near:?}?"),
            None => "; if the colon belongs to the word, put it in quotes".to_owned(),
        };
        problem(at, format!("there is no field {:?}{hint}", shorten(name)))
    }

    /// A word up to a space or a character with a meaning. In a value a colon is an ordinary character (dates, URLs).
    fn word(&mut self, value: bool) -> Parsed<Word> {
        let start = self.at;
        let mut word = Word { text: String::new(), star: false, escaped: false };
        while let Some(c) = self.peek() {
            if c.is_whitespace() || matches!(c, '(' | ')' | '"' | '^') || (c == ':' && !value) {
                break;
            }
            if value && matches!(c, ']' | '}') {
                break;
            }
            self.at += c.len_utf8();
            if word.star {
                return problem(start, "a star stands only at the end of a word; put it in quotes otherwise");
            }
            match c {
                '\\' => {
                    let Some(next) = self.peek() else {
                        return problem(self.at - 1, "a backslash at the end escapes nothing");
                    };
                    self.at += next.len_utf8();
                    word.text.push(next);
                    word.escaped = true;
                }
                '*' => word.star = true,
                c => word.text.push(c),
            }
        }
        let before_digits = word.text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if before_digits.ends_with('~') && !word.escaped {
            let reason = "~ follows only a phrase, like \"a b\"~2; words are searched as they are written";
            return problem(start + self.text[start..self.at].rfind('~').unwrap_or(0), reason);
        }
        Ok(word)
    }

    /// A quoted text, with the parser on its opening quote.
    fn quoted(&mut self) -> Parsed<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(text),
                '\\' => {
                    let Some(next) = self.peek() else { break };
                    self.at += next.len_utf8();
                    text.push(next);
                }
                c => text.push(c),
            }
        }
        problem(start, "this quote is never closed")
    }

    fn boosted(&mut self, query: Query) -> Parsed<Query> {
        let at = self.at;
        if !self.take('^') {
            return Ok(query);
        }
        let digits = self.digits();
        match digits.parse::<f32>() {
            Ok(boost) if boost.is_finite() && boost >= 0.0 => Ok(Query::Boost(Box::new(query), boost)),
            _ => problem(at, "a boost is a number like ^2 or ^0.5"),
        }
    }

    fn digits(&mut self) -> &str {
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        self.at += len;
        &rest[..len]
    }
}

/// The next clause is excluded; after another NOT, it is not.
fn not(group: &mut Group, at: usize) -> Parsed<()> {
    if group.occur == Occur::Must {
        return problem(at, "NOT follows +; say which of the two is meant");
    }
    group.occur = if group.occur == Occur::MustNot { Occur::Should } else { Occur::MustNot };
    group.wanting = Some(at);
    Ok(())
}

fn check_complete(group: &Group) -> Parsed<()> {
    match group.wanting {
        Some(at) => problem(at, "nothing follows this operator"),
        None => Ok(()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Edit distance (Levenshtein) of two short names; far ones count as far without being measured.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(LONGEST).collect(), b.chars().take(LONGEST).collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
