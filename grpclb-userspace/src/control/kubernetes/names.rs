//! Strings that many objects share (nodes, zones, names of ports, namespaces), kept once.

use std::collections::HashSet;
use std::sync::Arc;

use super::endpoints::Location;
use super::wire;

/// How many more names than were in use at the last look may come before the next look.
const SLACK: usize = 1024;

/// Every name that is in use, once.
#[derive(Debug, Default)]
pub(super) struct Names {
    strings: HashSet<Arc<str>>,
    locations: HashSet<Arc<Location>>,
    /// How many there were after the last look for those that nobody uses any more.
    kept: usize,
}

impl Names {
    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(name) {
            return Arc::clone(known);
        }
        self.forget_unused();
        let name: Arc<str> = name.into();
        self.strings.insert(Arc::clone(&name));
        name
    }

    /// Where an endpoint is, and whom its hints mean.
    pub(super) fn location(&mut self, wire: &wire::Endpoint) -> Arc<Location> {
        let mut list = |named: &[wire::Named]| named.iter().map(|named| self.get(&named.name)).collect();
        let hints = wire.hints.as_ref();
        let location = Location {
            for_nodes: hints.map(|hints| list(&hints.nodes)).unwrap_or_default(),
            for_zones: hints.map(|hints| list(&hints.zones)).unwrap_or_default(),
            node: wire
                .node_name
                .as_ref()
                .and_then(wire::text)
                .map(|node| self.get(node)),
        };
        if let Some(known) = self.locations.get(&location) {
            return Arc::clone(known);
        }
        let location = Arc::new(location);
        self.locations.insert(Arc::clone(&location));
        location
    }

    /// Now and then: each look costs as much as there are names, and comes after as many new ones.
    fn forget_unused(&mut self) {
        if self.strings.len() + self.locations.len() > 2 * self.kept + SLACK {
            self.locations.retain(|location| Arc::strong_count(location) > 1);
            self.strings.retain(|name| Arc::strong_count(name) > 1);
            self.kept = self.strings.len() + self.locations.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_not_longer_than_it_is_used() {
        let mut names = Names::default();
        let kept = names.get("kept");
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
        for number in 0..100_000 {
            names.get(&number.to_string());
        }
        assert!(names.strings.len() <= 2 * SLACK + 2, "{}", names.strings.len());
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
    }
}
