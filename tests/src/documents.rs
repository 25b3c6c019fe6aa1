//! Reading the documents, whose examples are run.

/// The blocks of a document in one language, as they stand between their fences.
#[must_use]
pub fn blocks(document: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.trim_start().strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        if found.trim() == language {
            blocks.push(body.join("\n"));
        }
    }
    blocks
}
