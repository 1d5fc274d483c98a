//! A pod's HTTP/2 sockets, by the splitter's name for the connection.

use std::rc::Rc;

use grpclb_engine::splitter::ConnId;

use super::leg::Leg;

/// Clients and upstreams, each by the index in its name. A name carries a generation, too: a leg of another generation
/// is another connection.
#[derive(Default)]
pub(super) struct Legs {
    clients: Vec<Option<Rc<Leg>>>,
    upstreams: Vec<Option<Rc<Leg>>>,
}

impl Legs {
    pub(super) fn insert(&mut self, leg: Rc<Leg>) {
        let index = leg.id.index();
        let side = self.side(leg.id);
        if side.len() <= index {
            side.resize(index + 1, None);
        }
        side[index] = Some(leg);
    }

    pub(super) fn get(&self, id: ConnId) -> Option<Rc<Leg>> {
        let side = match id {
            ConnId::Client(_) => &self.clients,
            ConnId::Upstream(_) => &self.upstreams,
        };
        side.get(id.index())?.as_ref().filter(|leg| leg.id == id).cloned()
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        let index = id.index();
        let side = self.side(id);
        if side
            .get(index)
            .is_some_and(|leg| leg.as_ref().is_some_and(|leg| leg.id == id))
        {
            side[index] = None;
        }
    }

    /// Open client connections.
    pub(super) fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    /// Open upstream connections.
    pub(super) fn upstreams(&self) -> usize {
        self.upstreams.iter().flatten().count()
    }

    pub(super) fn clear(&mut self) {
        self.clients.clear();
        self.upstreams.clear();
    }

    fn side(&mut self, id: ConnId) -> &mut Vec<Option<Rc<Leg>>> {
        match id {
            ConnId::Client(_) => &mut self.clients,
            ConnId::Upstream(_) => &mut self.upstreams,
        }
    }
}
