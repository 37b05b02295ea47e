//! The export macro and what it expands to.

#![allow(unsafe_code, reason = "exported symbols")]

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use relmgr_abi::abi_stable::extern_fn_panic_handling;
use relmgr_abi::abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
use relmgr_abi::abi_stable::prefix_type::WithMetadata;
use relmgr_abi::abi_stable::std_types::{RString, RVec};
use relmgr_abi::entry::Entry;
use relmgr_abi::future::panic_message;
use relmgr_abi::root::{
    AppRoot, AppRootRef, Description, InstanceFunctions, InstanceFunctionsRef, SchemaText,
};

use crate::state::Kind;
use crate::{Application, instance, settings};

/// Makes the library a relmgr application: `relmgr_app::export!(MyApplication);`, once in the crate. One that keeps
/// [state](crate::state) for the next release: `relmgr_app::export!(MyApplication, state);`.
#[macro_export]
macro_rules! export {
    ($application:ty) => {
        $crate::export!(@ $application, $crate::__private::Stateless);
    };
    ($application:ty, state) => {
        $crate::export!(@ $application, $crate::__private::WithState);
    };
    (@ $application:ty, $kind:ty) => {
        const _: () = {
            #[allow(unsafe_code, reason = "the two symbols by which relmgr knows the library")]
            #[unsafe(no_mangle)]
            pub static RELMGR_ENTRY: $crate::__private::Entry =
                $crate::__private::entry::<$application, $kind>();

            #[allow(unsafe_code, reason = "the two symbols by which relmgr knows the library")]
            #[unsafe(no_mangle)]
            pub static RELMGR_LAYOUT: $crate::__private::LibHeader =
                $crate::__private::layout::<$application, $kind>();
        };
    };
}

/// For the macro.
#[doc(hidden)]
pub mod __private {
    pub use super::{entry, layout};
    pub use crate::state::{Stateless, WithState};
    pub use relmgr_abi::abi_stable::library::LibHeader;
    pub use relmgr_abi::entry::Entry;
}

/// The value of `RELMGR_ENTRY`.
pub const fn entry<A: Application, K: Kind<A>>() -> Entry {
    Entry::new(Tables::<A, K>::ROOT)
}

/// The value of `RELMGR_LAYOUT`.
pub const fn layout<A: Application, K: Kind<A>>() -> LibHeader {
    // SAFETY: `layout_root` returns an erased `AppRootRef`, the type that is named here.
    unsafe { LibHeader::from_constructor::<AppRootRef>(layout_root::<A, K>, CheckTypeLayout::Yes) }
}

extern "C" fn layout_root<A: Application, K: Kind<A>>() -> RootModuleResult {
    extern_fn_panic_handling! {
        relmgr_abi::abi_stable::library::__call_root_module_loader(|| Tables::<A, K>::ROOT)
    }
}

/// The constant tables of one application.
pub(crate) struct Tables<A, K>(PhantomData<(A, K)>);

impl<A: Application, K: Kind<A>> Tables<A, K> {
    const ROOT_FIELDS: &'static WithMetadata<AppRoot> = &WithMetadata::new(AppRoot {
        check: instance::check::<A>,
        start: instance::start::<A, K>,
        describe: describe::<A>,
        schema: schema::<A>,
        state: state::<A, K>,
        code_change: instance::code_change::<A, K>,
        change_back: instance::change_back::<A, K>,
    });

    const FUNCTION_FIELDS: &'static WithMetadata<InstanceFunctions> = &WithMetadata::new(InstanceFunctions {
        started: instance::ffi_started::<A>,
        call: instance::ffi_call::<A>,
        health: instance::ffi_health::<A>,
        resume: instance::ffi_resume::<A>,
        suspend: instance::ffi_suspend::<A>,
        stop: instance::ffi_stop::<A>,
        destroy: instance::ffi_destroy::<A>,
        conf_change: instance::ffi_conf_change::<A>,
        children: instance::ffi_children::<A>,
        suspend_within: instance::ffi_suspend_within::<A>,
        state_out: instance::ffi_state_out::<A, K>,
        state_in: instance::ffi_state_in::<A, K>,
        state_back: instance::ffi_state_back::<A, K>,
        hand_down: instance::ffi_hand_down::<A>,
        sessions: instance::ffi_sessions::<A>,
        session_open: instance::ffi_session_open::<A>,
        session_message: instance::ffi_session_message::<A>,
        session_close: instance::ffi_session_close::<A>,
        wind_up: instance::ffi_wind_up::<A>,
    });

    const ROOT: AppRootRef = AppRootRef(Self::ROOT_FIELDS.static_as_prefix());

    /// What an instance's functions are.
    pub(crate) const FUNCTIONS: InstanceFunctionsRef =
        InstanceFunctionsRef(Self::FUNCTION_FIELDS.static_as_prefix());
}

extern "C" fn describe<A>() -> Description {
    Description { name: std::any::type_name::<A>().into() }
}

extern "C" fn schema<A: Application>() -> SchemaText {
    let made = catch_unwind(AssertUnwindSafe(settings::schema::<A::Settings>));
    let made = match made {
        Ok(made) => made.map_err(|error| error.to_string()),
        Err(payload) => Err(format!("making the settings' defaults panicked: {}", panic_message(payload))),
    };
    made.map(|text| text.map(RString::from).into()).map_err(RString::from).into()
}

extern "C" fn state<A: Application, K: Kind<A>>() -> RVec<u8> {
    // One that panics says nothing: no form is known of it.
    let said = catch_unwind(AssertUnwindSafe(|| serde_json::to_vec(&K::describe())));
    said.ok().and_then(Result::ok).unwrap_or_default().into()
}
