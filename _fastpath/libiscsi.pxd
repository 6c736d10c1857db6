# cython: language_level=3
"""The part of libiscsi that is used: the asynchronous calls of a session, and tasks with the caller's own buffers."""

from libc.stdint cimport uint32_t


cdef extern from "<iscsi/iscsi.h>" nogil:
    struct iscsi_context:
        pass

    ctypedef void (*iscsi_command_cb)(iscsi_context *context, int status, void *data, void *owner) noexcept nogil

    int ISCSI_SESSION_NORMAL
    int ISCSI_HEADER_DIGEST_NONE
    int ISCSI_HEADER_DIGEST_CRC32C
    int ISCSI_TMR_FUNC_COMPLETE
    int ISCSI_TMR_TASK_DOES_NOT_EXIST
    int SCSI_STATUS_GOOD
    int SCSI_STATUS_CHECK_CONDITION
    int SCSI_STATUS_CANCELLED
    int SCSI_STATUS_ERROR
    int SCSI_STATUS_TIMEOUT

    iscsi_context *iscsi_create_context(const char *initiator)
    int iscsi_destroy_context(iscsi_context *context)
    int iscsi_set_targetname(iscsi_context *context, const char *name)
    int iscsi_set_session_type(iscsi_context *context, int kind)
    int iscsi_set_header_digest(iscsi_context *context, int digest)
    int iscsi_set_isid_oui(iscsi_context *context, uint32_t oui, uint32_t qualifier)
    int iscsi_set_isid_en(iscsi_context *context, uint32_t number, uint32_t qualifier)
    int iscsi_set_isid_random(iscsi_context *context, uint32_t number, uint32_t qualifier)
    int iscsi_set_initiator_username_pwd(iscsi_context *context, const char *user, const char *secret)
    int iscsi_set_target_username_pwd(iscsi_context *context, const char *user, const char *secret)
    void iscsi_set_noautoreconnect(iscsi_context *context, int state)
    void iscsi_set_tcp_user_timeout(iscsi_context *context, int milliseconds)
    void iscsi_set_tcp_keepidle(iscsi_context *context, int seconds)
    void iscsi_set_tcp_keepcnt(iscsi_context *context, int count)
    void iscsi_set_tcp_keepintvl(iscsi_context *context, int seconds)

    int iscsi_connect_async(iscsi_context *context, const char *portal, iscsi_command_cb callback, void *owner)
    int iscsi_login_async(iscsi_context *context, iscsi_command_cb callback, void *owner)
    int iscsi_logout_async(iscsi_context *context, iscsi_command_cb callback, void *owner)
    int iscsi_is_logged_in(iscsi_context *context)
    const char *iscsi_get_error(iscsi_context *context)
    const char *iscsi_get_target_address(iscsi_context *context)

    int iscsi_get_fd(iscsi_context *context)
    int iscsi_which_events(iscsi_context *context)
    int iscsi_service(iscsi_context *context, int revents)
    int iscsi_out_queue_length(iscsi_context *context)
    int iscsi_nop_out_async(iscsi_context *context, iscsi_command_cb callback, unsigned char *data, int length,
                            void *owner)
    int iscsi_scsi_command_async(iscsi_context *context, int lun, scsi_task *task, iscsi_command_cb callback,
                                 void *data, void *owner)
    int iscsi_task_mgmt_abort_task_async(iscsi_context *context, scsi_task *task, iscsi_command_cb callback,
                                         void *owner)
    int iscsi_scsi_cancel_task(iscsi_context *context, scsi_task *task)


cdef extern from "<iscsi/scsi-lowlevel.h>" nogil:
    int SCSI_XFER_NONE
    int SCSI_XFER_READ
    int SCSI_XFER_WRITE
    int SCSI_RESIDUAL_UNDERFLOW
    int SCSI_RESIDUAL_OVERFLOW

    struct scsi_data:
        int size
        unsigned char *data

    struct scsi_iovec:
        pass

    struct scsi_task:
        int status
        int cdb_size
        int xfer_dir
        int expxferlen
        unsigned char cdb[16]
        int residual_status
        size_t residual
        scsi_data datain

    void scsi_task_set_iov_in(scsi_task *task, scsi_iovec *iovecs, int count)
    void scsi_task_set_iov_out(scsi_task *task, scsi_iovec *iovecs, int count)


cdef extern from "iscsi_compat.h" nogil:
    # 0, or -1 where the library is too old to have data digests.
    int pyproxy_iscsi_data_digest(iscsi_context *context, int wanted)
    bint pyproxy_iscsi_has_data_digest()
