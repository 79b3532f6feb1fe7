//! How a server is started: the files of `conformance/servers`, see the README there.

/// The arguments in `template`, with the placeholders filled in. A line whose placeholder has no value is left out.
pub fn fill(template: &str, values: &[(&str, Option<String>)]) -> Vec<String> {
    template
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| fill_line(line, values))
        .collect()
}

fn fill_line(line: &str, values: &[(&str, Option<String>)]) -> Option<String> {
    let (mut filled, mut rest) = (String::new(), line);
    while let Some((before, from)) = rest.split_once('{') {
        filled.push_str(before);
        let name = &from[..from.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(from.len())];
        match from[name.len()..].strip_prefix('}') {
            Some(after) if !name.is_empty() => {
                let (_, value) = values.iter().find(|(known, _)| *known == name)?;
                filled.push_str(value.as_deref()?);
                rest = after;
            }
            // A brace of the file's own.
            _ => {
                filled.push('{');
                rest = from;
            }
        }
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn fills_placeholders_and_leaves_out_lines_without_a_value() {
        let template = "# note\n\nrun\n--data={data}\n--quota={quota}\n--other={unheard_of}\n";
        let values = [("data", Some("/d".to_owned())), ("quota", None)];
        assert_eq!(fill(template, &values), ["run", "--data=/d"]);
        let values = [("data", Some("/d".to_owned())), ("quota", Some("5".to_owned()))];
        assert_eq!(fill(template, &values), ["run", "--data=/d", "--quota=5"]);
        let json = "{\n\"a\": { \"b\": {quota} },\n\"c\": {},\n\"d\": \"{none}\",\n}";
        assert_eq!(fill(json, &values), ["{", "\"a\": { \"b\": 5 },", "\"c\": {},", "}"]);
    }
}
