//! `grpc.health.v1`: whether this node takes calls, for load balancers.

use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, unfold};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Face, SERVICES};

/// Between two looks for who watches.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Face {
    fn serving(&self, service: &str) -> Option<ServingStatus> {
        let is_ready = self.node.is_ready() && self.node.has_recovered();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        (service.is_empty() || SERVICES.contains(&service)).then_some(status)
    }
}

#[tonic::async_trait]
impl Health for Face {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = self.serving(&service).ok_or_else(|| Status::not_found("there is no such service"))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (service, face) = (request.into_inner().service, Face { node: self.node.clone() });
        let changes = unfold((face, None), move |(face, before)| {
            let service = service.clone();
            async move {
                loop {
                    let status = face.serving(&service).unwrap_or(ServingStatus::ServiceUnknown);
                    if before != Some(status) {
                        let response = HealthCheckResponse { status: status.into() };
                        return Some((Ok(response), (face, Some(status))));
                    }
                    if !face.node.is_ready() {
                        return None; // it is said that it goes
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
