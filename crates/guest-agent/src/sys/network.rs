//! Interface addresses and the default route, by the old and stable ioctl calls. Must never flush what it did not
//! set: it replaces one interface's first address and one default route.

use super::check;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::Ipv4Addr;

fn control_socket() -> std::io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn request(interface: &str) -> std::io::Result<libc::ifreq> {
    // SAFETY: all zero is a valid ifreq: an empty name and a zero union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::INVAL.into());
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of 16 bytes, and the family says which of the two it is.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

/// Switches an interface on.
pub fn set_up(interface: &str) -> std::io::Result<()> {
    switch(interface, true)
}

/// Switches an interface off.
pub fn set_down(interface: &str) -> std::io::Result<()> {
    switch(interface, false)
}

fn switch(interface: &str, on: bool) -> std::io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(interface)?;
    // SAFETY: the request is live and initialised; SIOCGIFFLAGS fills its flags, which is the union's member that
    // SIOCSIFFLAGS reads.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request).into())?;
        let up = libc::IFF_UP as libc::c_short;
        let flags = request.ifr_ifru.ifru_flags;
        request.ifr_ifru.ifru_flags = if on { flags | up } else { flags & !up };
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request).into()).map(drop)
    }
}

/// Gives an interface another link address. Where its driver cannot do that live (`EBUSY`), it must be off.
pub fn set_mac(interface: &str, mac: [u8; 6]) -> std::io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(interface)?;
    let mut data: [libc::c_char; 14] = [0; 14];
    for (slot, byte) in data.iter_mut().zip(mac) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data };
    // SAFETY: the request is live, and holds a hardware address where the call reads one.
    unsafe { check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR, &request).into()).map(drop) }
}

/// Gives an interface its first address and the mask of its network.
pub fn set_address(interface: &str, address: Ipv4Addr, prefix: u8) -> std::io::Result<()> {
    let socket = control_socket()?;
    let mut request = request(interface)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    request.ifr_ifru.ifru_addr = socket_address(address);
    // SAFETY: the request is live, and holds a socket address where both calls read one.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request).into())?;
        request.ifr_ifru.ifru_netmask = socket_address(Ipv4Addr::from(mask));
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK, &request).into()).map(drop)
    }
}

/// First address of an interface, and the length of its prefix.
pub fn address(interface: &str) -> std::io::Result<(Ipv4Addr, u8)> {
    let socket = control_socket()?;
    let mut request = request(interface)?;
    let read = |request: &libc::ifreq| {
        // SAFETY: after SIOCGIFADDR and SIOCGIFNETMASK the union holds an AF_INET socket address, whose address is
        // bytes 2 to 6 of `sa_data`.
        let data = unsafe { request.ifr_ifru.ifru_addr.sa_data };
        Ipv4Addr::new(data[2] as u8, data[3] as u8, data[4] as u8, data[5] as u8)
    };
    // SAFETY: the request is live and initialised; both calls fill its address.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFADDR, &mut request).into())?;
        let address = read(&request);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNETMASK, &mut request).into())?;
        Ok((address, u32::from(read(&request)).count_ones() as u8))
    }
}

/// Replaces the default route.
pub fn set_gateway(gateway: Ipv4Addr) -> std::io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all zero is a valid rtentry: no device, no metric.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP as libc::c_ushort;
    // SAFETY: the route is live and initialised; both calls only read it. Deleting what is not there fails
    // (ESRCH), which is what we want.
    unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCDELRT, &route);
        route.rt_flags |= libc::RTF_GATEWAY as libc::c_ushort;
        route.rt_gateway = socket_address(gateway);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route).into()).map(drop)
    }
}
