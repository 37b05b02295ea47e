//! What the host calls. No panic leaves: each either cannot panic or catches it. `data` is always the box that
//! [`start`] gave out; the host holds the generation during every call, and until every future and body that came of
//! one has been dropped. Only then it calls `destroy`.

#![allow(unsafe_code, reason = "the host gives the instance back as the pointer that it was handed out as")]

use super::*;

/// # Safety
/// `data` came from [`start`] and was not given to [`destroy`].
unsafe fn instance<'a, A: Application>(data: *const ()) -> &'a Instance<A> {
    // SAFETY: the caller says so; shared references only.
    unsafe { &*data.cast::<Instance<A>>() }
}

pub(crate) extern "C" fn check<A: Application>(args: StartArgs) -> FfiFuture<Told> {
    let begun = catch_unwind(AssertUnwindSafe(|| {
        log::install(args.host, &args.version);
        let settings = decode::<A>(&args)?;
        let runtime = new_runtime(&args.version)?;
        let task = runtime.spawn(async move { A::check(&settings).await });
        Ok((runtime, task))
    }));
    let begun = begun.unwrap_or_else(|payload| Err(format!("check panicked: {}", panic_message(payload))));
    FfiFuture::new(async move {
        match begun {
            Err(error) => RResult::RErr(error.into()),
            Ok((runtime, task)) => {
                let result = outcome(task, "check").await;
                runtime.shutdown_background();
                told(result)
            }
        }
    })
}

/// Tries a code change on a state, without an instance.
pub(crate) extern "C" fn code_change<A: Application, K: Kind<A>>(
    schema: u32,
    body: FfiBody,
) -> FfiFuture<RResult<RVec<u8>, RString>> {
    let tried = on_its_own(K::trial(schema, body));
    FfiFuture::new(async move {
        // Every outcome has a JSON form.
        let told = |trial| serde_json::to_vec(&trial).unwrap_or_default().into();
        tried.await.map(told).map_err(RString::from).into()
    })
}

pub(crate) extern "C" fn change_back<A: Application, K: Kind<A>>(
    schema: u32,
    body: FfiBody,
    to: u32,
) -> FfiFuture<RResult<FfiBody, RString>> {
    let given = on_its_own(K::give_back(schema, body, to));
    FfiFuture::new(async move { given.await.map_err(RString::from).into() })
}

/// Runs what belongs to no instance on a runtime of its own.
fn on_its_own<T: Send + 'static>(
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> impl Future<Output = Result<T, String>> + Send {
    let begun = new_runtime("trial").map(|runtime| {
        let task = runtime.spawn(work);
        (runtime, task)
    });
    async move {
        let (runtime, task) = begun?;
        let result = words(task, "code_change").await;
        runtime.shutdown_background();
        result
    }
}

pub(crate) extern "C" fn start<A: Application, K: Kind<A>>(args: StartArgs) -> RResult<FfiInstance, RString> {
    let made = catch_unwind(AssertUnwindSafe(|| Instance::<A>::start(&args)));
    match made.unwrap_or_else(|payload| Err(panic_message(payload))) {
        Ok(made) => RResult::ROk(FfiInstance {
            data: Box::into_raw(Box::new(made)).cast_const().cast(),
            functions: functions::<A, K>(),
        }),
        Err(error) => RResult::RErr(error.into()),
    }
}

/// The table of an application's functions.
const fn functions<A: Application, K: Kind<A>>() -> InstanceFunctionsRef {
    crate::export::Tables::<A, K>::FUNCTIONS
}

pub(crate) unsafe extern "C" fn ffi_started<A: Application>(data: *const ()) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this module.
    let started = unsafe { instance::<A>(data) }.started.clone();
    FfiFuture::new(Instance::<A>::wait_started(started))
}

pub(crate) unsafe extern "C" fn ffi_call<A: Application>(
    data: *const (),
    head: RequestHead<'_>,
    body: ROption<FfiBody>,
) -> FfiFuture<Response> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let called = catch_unwind(AssertUnwindSafe(|| call(instance, &head, body.into_option())));
    // A router that panics before it gives a future: the panic is told by the first poll.
    called.unwrap_or_else(|payload| {
        let message = panic_message(payload);
        FfiFuture::new(async move { std::panic::resume_unwind(Box::new(message)) })
    })
}

pub(crate) unsafe extern "C" fn ffi_health<A: Application>(data: *const ()) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let gave_up = instance.children().as_ref().and_then(children::Running::failure);
    let task = instance.runtime.spawn(async move {
        if let Some(reason) = gave_up {
            return Err(format!("background children: {reason}").into());
        }
        match running.get() {
            Some(running) => running.app.health().await,
            None => Err("the application has not started".into()),
        }
    });
    FfiFuture::new(async move { told(outcome(task, "health").await) })
}

pub(crate) unsafe extern "C" fn ffi_resume<A: Application>(data: *const ()) {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| instance.resume())) {
        let text = format!("starting the children panicked: {}", panic_message(payload));
        log::send(1, "relmgr_app", &format!("background children: {text}"));
    }
}

pub(crate) unsafe extern "C" fn ffi_suspend<A: Application>(data: *const ()) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    // On the instance's runtime, since its timers need one.
    let task = instance.runtime.spawn(instance.suspend(None));
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_suspend_within<A: Application>(
    data: *const (),
    patience_ms: u64,
) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let patience = Duration::from_millis(patience_ms);
    let task = instance.runtime.spawn(instance.suspend(Some(patience)));
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_children<A: Application>(data: *const ()) -> RVec<u8> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let tree = instance.children().as_ref().map(children::Running::tree);
    // Every tree has a JSON form.
    serde_json::to_vec(&tree).unwrap_or_default().into()
}

pub(crate) unsafe extern "C" fn ffi_sessions<A: Application>(data: *const ()) -> RVec<u8> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let offer = instance.running.get().map(|running| running.sessions.offer());
    // Every offer has a JSON form.
    serde_json::to_vec(&offer.unwrap_or_default()).unwrap_or_default().into()
}

pub(crate) unsafe extern "C" fn ffi_session_open<A: Application>(
    data: *const (),
    opening: SessionOpening<'_>,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::begin(sessions, &opening))
}

pub(crate) unsafe extern "C" fn ffi_session_message<A: Application>(
    data: *const (),
    session: SessionView<'_>,
    kind: u8,
    bytes: FfiBytes,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::said(sessions, &session, kind, bytes))
}

pub(crate) unsafe extern "C" fn ffi_session_close<A: Application>(
    data: *const (),
    session: SessionView<'_>,
    code: u16,
    reason: RStr<'_>,
) -> FfiFuture<SessionOutcome> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    handle(instance, |sessions| sessions::over(sessions, &session, code, &reason))
}

pub(crate) unsafe extern "C" fn ffi_wind_up<A: Application>(data: *const ()) {
    // SAFETY: the host's promise at the top of this module.
    unsafe { instance::<A>(data) }.winding_up.send_replace(true);
}

pub(crate) unsafe extern "C" fn ffi_conf_change<A: Application>(
    data: *const (),
    change: RVec<u8>,
) -> FfiFuture<RResult<bool, RString>> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let task = instance.runtime.spawn(async move {
        let Some(running) = running.get() else { return Err("the application has not started".into()) };
        let change: relmgr_abi::conf::ConfChange<serde_json::Value> = crate::settings::parse(&change)?;
        let relmgr_abi::conf::ConfChange { settings, changed, new, removed } = change;
        let settings = crate::settings::decode_value(settings)?;
        match running.app.conf_change(crate::ConfChange { settings, changed, new, removed }).await {
            Ok(()) => Ok(true),
            Err(error) if error.is::<NotTaken>() => Ok(false),
            Err(error) => Err(error),
        }
    });
    let given_up = EndOnDrop(task.abort_handle());
    FfiFuture::new(async move {
        let result = outcome(task, "conf_change").await;
        drop(given_up);
        result.map_err(RString::from).into()
    })
}

pub(crate) unsafe extern "C" fn ffi_state_out<A: Application, K: Kind<A>>(
    data: *const (),
    schema: u32,
) -> FfiFuture<RResult<FfiBody, RString>> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    // Not ended when nobody waits any more: a holder that was told to give its state gets it back by itself then.
    let task = instance.runtime.spawn(K::give(instance.running.clone(), instance.kept.clone(), schema));
    FfiFuture::new(async move { words(task, "suspend").await.map_err(RString::from).into() })
}

pub(crate) unsafe extern "C" fn ffi_state_in<A: Application, K: Kind<A>>(
    data: *const (),
    schema: u32,
    body: FfiBody,
) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let task = instance.runtime.spawn(K::take(instance.running.clone(), instance.kept.clone(), schema, body));
    let given_up = EndOnDrop(task.abort_handle());
    FfiFuture::new(async move {
        let result = words(task, "resume").await;
        drop(given_up);
        told(result)
    })
}

pub(crate) unsafe extern "C" fn ffi_state_back<A: Application, K: Kind<A>>(
    data: *const (),
) -> FfiFuture<Told> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let task = instance.runtime.spawn(K::back(instance.running.clone(), instance.kept.clone()));
    FfiFuture::new(async move { told(words(task, "resume").await) })
}

pub(crate) unsafe extern "C" fn ffi_hand_down<A: Application>(
    data: *const (),
) -> FfiFuture<RResult<u64, RString>> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let tables = instance.context.as_ref().and_then(Context::opened_tables);
    let task = instance.runtime.spawn_blocking(move || match tables {
        Some(tables) => tables.hand_down().map_err(Error::from),
        None => Ok(0),
    });
    FfiFuture::new(async move { outcome(task, "handing down").await.map_err(RString::from).into() })
}

pub(crate) unsafe extern "C" fn ffi_stop<A: Application>(data: *const ()) -> FfiFuture<()> {
    // SAFETY: the host's promise at the top of this module.
    let instance = unsafe { instance::<A>(data) };
    let running = instance.running.clone();
    let task = instance.runtime.spawn(async move {
        if let Some(running) = running.get() {
            running.app.stop().await;
        }
    });
    FfiFuture::new(async move { drop(task.await) })
}

pub(crate) unsafe extern "C" fn ffi_destroy<A: Application>(data: *const (), patience_ms: u64) {
    // SAFETY: the host calls this once, last; the box came from `start`.
    let instance = unsafe { Box::from_raw(data.cast_mut().cast::<Instance<A>>()) };
    instance.destroy(Duration::from_millis(patience_ms));
}
