//! A caller's text as a reason shows it.

/// One line, escaped, and shortened in the middle to some 120 characters.
pub(crate) fn shown(text: &str) -> String {
    const HALF: usize = 60;
    let mut line = String::new();
    let mut push = |part: &str| {
        for character in part.chars() {
            match character {
                '\'' | '"' => line.push(character),
                other => line.extend(other.escape_debug()),
            }
        }
    };
    match (text.char_indices().nth(HALF), text.char_indices().nth_back(HALF - 1)) {
        (Some((head, _)), Some((tail, _))) if head < tail => {
            push(&text[..head]);
            push("…");
            push(&text[tail..]);
        }
        _ => push(text),
    }
    line
}
