//! [`Attempt`]: one attempt to connect, from the look-up of the broker's name to the broker's answer.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use paho_mqtt as mqtt;

use super::{
    connection::ConnectionError, names::NameToResolve, options::Target, permit::ConnectPermit,
    token::poll,
};
use crate::net::LookUp;

/// An attempt to connect.
pub(super) enum Attempt {
    /// The name server is asked.
    Resolving(Arc<LookUp>),
    /// Others connect first.
    Waiting(Arc<ConnectPermit>),
    Connecting(mqtt::ConnectToken, Arc<ConnectPermit>),
}

impl Attempt {
    /// Asks the name server for the broker, or for a permit if its address is no name.
    pub(super) fn begin(target: &Target, waker: &Waker) -> Result<Self, ConnectionError> {
        let look_up = target.name.as_ref().map(NameToResolve::look_up);
        Ok(if let Some(look_up) = look_up.transpose()? {
            look_up.wake_at_end(waker);
            Self::Resolving(look_up)
        } else {
            Self::Waiting(ConnectPermit::ask(waker))
        })
    }

    /// Takes the steps that are due, of which `connect` is one. Returns the end: true if the broker has the session.
    pub(super) fn poll(
        &mut self,
        target: &Target,
        waker: &Waker,
        connect: impl FnOnce(mqtt::ConnectOptions) -> mqtt::ConnectToken,
    ) -> Poll<Result<bool, ConnectionError>> {
        if let Self::Resolving(look_up) = self {
            let name = target.name.as_ref();
            match name.map_or(Ok(true), |name| name.is_resolved(look_up)) {
                Ok(false) => return Poll::Pending,
                Ok(true) => *self = Self::Waiting(ConnectPermit::ask(waker)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if let Self::Waiting(permit) = self
            && permit.is_granted()
        {
            let permit = Arc::clone(permit);
            *self = Self::Connecting(connect(target.options.clone()), permit);
        }
        let Self::Connecting(token, _) = self else {
            return Poll::Pending;
        };
        poll(token, waker).map(|result| match result {
            Ok(response) => Ok(response
                .connect_response()
                .is_some_and(|response| response.session_present)),
            Err(error) => Err(ConnectionError::from(&error)),
        })
    }

    /// Returns the permit, if Paho was asked to connect.
    pub(super) fn into_permit(self) -> Option<Arc<ConnectPermit>> {
        match self {
            Self::Connecting(_, permit) => Some(permit),
            Self::Resolving(_) | Self::Waiting(_) => None,
        }
    }
}
