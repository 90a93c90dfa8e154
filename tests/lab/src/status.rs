//! Reading `status --json`.

use serde_json::Value;

/// A group in a `status --json` document.
pub fn group<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["groups"].as_array()?.iter().find(|group| group["name"] == name)
}

/// A link of a group in a `status --json` document.
pub fn link<'a>(status: &'a Value, group_name: &str, link_name: &str) -> Option<&'a Value> {
    group(status, group_name)?["links"].as_array()?.iter().find(|link| link["name"] == link_name)
}

/// The names of a group's active links.
pub fn active(status: &Value, group_name: &str) -> Vec<String> {
    let names = group(status, group_name).and_then(|group| group["active"].as_array());
    names.into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

/// The names of a group's usable links.
pub fn usable(status: &Value, group_name: &str) -> Vec<String> {
    let links = group(status, group_name).and_then(|group| group["links"].as_array());
    links
        .into_iter()
        .flatten()
        .filter(|link| link["usable"] == true)
        .filter_map(|link| Some(link["name"].as_str()?.to_owned()))
        .collect()
}

/// How often links went down, all groups' together.
pub fn flaps(status: &Value) -> u64 {
    let groups = status["groups"].as_array().into_iter().flatten();
    let links = groups.flat_map(|group| group["links"].as_array().into_iter().flatten());
    links.filter_map(|link| link["flaps"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let status = serde_json::json!({"groups": [
            {"name": "other", "active": [], "links": []},
            {"name": "hq", "active": ["wifi"], "links": [
                {"name": "optic", "usable": false}, {"name": "wifi", "usable": true}]},
        ]});
        assert_eq!(active(&status, "hq"), ["wifi"]);
        assert_eq!(usable(&status, "hq"), ["wifi"]);
        assert!(link(&status, "hq", "optic").is_some());
        assert!(link(&status, "hq", "tunnel").is_none());
        assert!(active(&status, "absent").is_empty());
    }
}
