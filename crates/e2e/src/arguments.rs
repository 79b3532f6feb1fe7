//! How a server is started: the files of `conformance/servers`, see the README there.

/// The arguments in `template`, with the placeholders filled in. A line whose placeholder has no value is left out.
pub fn fill(template: &str, values: &[(&str, Option<String>)]) -> Vec<String> {
    template.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(|line| fill_line(line, values)).collect()
}

fn fill_line(line: &str, values: &[(&str, Option<String>)]) -> Option<String> {
    let mut filled = line.to_owned();
    for (name, value) in values {
        let placeholder = format!("{{{name}}}");
        if filled.contains(&placeholder) {
            filled = filled.replace(&placeholder, value.as_deref()?);
        }
    }
    (!filled.contains('{')).then_some(filled)
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
    }
}
